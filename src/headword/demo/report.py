"""The demo's page: one HTML file with its pictures inside, that opens anywhere and prints; and `page`, the
look that it shares.

Only the standard library and Pillow; no script, no font, nothing fetched. The look is in `_STYLE` at the end,
the content in the small functions above it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from headword.data.images import load_image
from headword.files import write_text_atomic


class Score(NamedTuple):
    """How well a label fits a picture."""

    label: str
    probability: float
    """0 … 1, over all labels."""
    cosine: float
    """-1 … 1."""


class Expected(NamedTuple):
    """What would have been right, and where it came."""

    name: str
    rank: int
    """1 for the first, which is right."""
    of: int
    """How many there were to choose from."""

    @property
    def right(self) -> bool:
        """Whether it came first."""
        return self.rank == 1

    def __str__(self) -> str:
        """The rank in words: "3rd of 14"."""
        teen = self.rank % 100 in (11, 12, 13)
        ending = {1: "st", 2: "nd", 3: "rd"}.get(0 if teen else self.rank % 10, "th")
        return f"{self.rank}{ending} of {self.of}"


@dataclass(frozen=True, slots=True)
class Labelled:
    """A picture and its best labels, best first."""

    path: Path
    title: str
    scores: Sequence[Score]
    expected: Expected
    """The picture's own words."""
    credit: str = ""


class Hit(NamedTuple):
    """A picture that a search found."""

    path: Path
    title: str
    cosine: float


@dataclass(frozen=True, slots=True)
class Found:
    """A sentence and the pictures nearest to it, nearest first."""

    query: str
    hits: Sequence[Hit]
    expected: Expected
    """The title of the picture that was meant."""


def write_demo_page(
    path: str | Path,
    *,
    labelled: Sequence[Labelled],
    searches: Sequence[Found],
    facts: Sequence[tuple[str, str]],
    labels: Sequence[str] = (),
    title: str = "A classifier's head, turned into words",
    lead: str = "",
) -> None:
    """Write the demo's page, whole or not at all.

    Args:
        path: the HTML file; an old one is replaced.
        labelled: the pictures with their labels.
        searches: the sentences with what they found.
        facts: names and values of what was run and how long it took, for the end of the page.
        labels: every label that was offered, shown so that a reader can judge the choice.
        title: the page's heading.
        lead: a paragraph below it, as plain text.

    Raises:
        HeadwordError: if a picture cannot be read or the file not be written.
    """
    thumbnail = cache(_thumbnail)
    body = [
        f'<header><p class="name">headword</p><h1>{escape(title)}</h1>',
        f'<p class="lead">{escape(lead)}</p>' if lead else "",
        "</header><main>",
        '<section aria-labelledby="labels"><h2 id="labels">Labelled with words that are not its classes</h2>',
        _count(labelled, "pictures got their own words first"),
        '<div class="cards">',
        *(_card(item, thumbnail(item.path, 520)) for item in labelled),
        "</div>",
        _offered(labels) if labels else "",
        "</section>",
        '<section aria-labelledby="searches"><h2 id="searches">Found by a sentence</h2>',
        _count(searches, "sentences found the picture that was meant first"),
        *(_search(found, [thumbnail(hit.path, 280) for hit in found.hits]) for found in searches),
        "</section>",
        '<section aria-labelledby="facts"><h2 id="facts">What ran, and how long it took</h2>',
        facts_list(facts),
        "</section></main>",
        _footer(labelled),
    ]
    write_text_atomic(path, page(title, body))


def page(title: str, body: Iterable[str], *, style: str = "") -> str:
    """A page of the house: what stands in `body`, parts in HTML, and what is to be added to the look.

    Empty parts are left out.
    """
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)} · headword</title>\n<style>{_STYLE}{style}</style></head>\n<body>\n"
    )
    return head + "\n".join(part for part in body if part) + "\n</body></html>\n"


def facts_list(facts: Sequence[tuple[str, str]]) -> str:
    """Names and values as HTML, for the head of a page."""
    rows = (f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    return f'<dl class="facts">{"".join(rows)}</dl>'


class _Thumbnail(NamedTuple):
    uri: str
    width: int
    height: int


def _thumbnail(path: Path, side: int) -> _Thumbnail:
    """A picture of at most `side` pixels a side as a `data:` address."""
    image = load_image(path)
    image = image.copy() if max(image.size) > side else image
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82, optimize=True, progressive=True)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return _Thumbnail(f"data:image/jpeg;base64,{encoded}", image.width, image.height)


def _img(thumbnail: _Thumbnail, title: str) -> str:
    return (
        f'<img src="{thumbnail.uri}" width="{thumbnail.width}" height="{thumbnail.height}" '
        f'alt="{escape(title)}">'
    )


def _offered(labels: Sequence[str]) -> str:
    words = "".join(f"<li>{escape(label)}</li>" for label in labels)
    return (
        f"<details><summary>The {len(labels)} labels every picture could have had</summary>"
        f'<ul class="words">{words}</ul></details>'
    )


def _count(judged: Sequence[Labelled | Found], what: str) -> str:
    if not judged:
        return ""
    right = sum(one.expected.right for one in judged)
    return f'<p class="count">{right} of {len(judged)} {escape(what)}.</p>'


def _verdict(expected: Expected, right: str, wrong: str) -> str:
    """Right or wrong, in a line; where the expected one came is said by `wrong`."""
    kind, mark, text = ("right", "✓", right) if expected.right else ("wrong", "✗", wrong)
    return f'<p class="verdict {kind}"><span aria-hidden="true">{mark}</span> {escape(text)}</p>'


def _card(item: Labelled, thumbnail: _Thumbnail) -> str:
    wrong = f"Its own words, “{item.expected.name}”, came {item.expected}"
    rows = "".join(
        f'<li><span class="label">{escape(score.label)}</span>'
        f'<span class="number">{_percent(score.probability)}</span>'
        f'<span class="bar" aria-hidden="true"><i style="width:{100 * score.probability:.1f}%"></i></span>'
        f'<span class="cosine">cosine {_signed(score.cosine)}</span></li>'
        for score in item.scores
    )
    return (
        f'<article class="card">{_img(thumbnail, item.title)}<h3>{escape(item.title)}</h3>'
        f"{_verdict(item.expected, 'Its own words came first', wrong)}"
        f'<ol class="scores">{rows}</ol></article>'
    )


def _search(found: Found, thumbnails: Sequence[_Thumbnail]) -> str:
    meant = found.expected.name
    hits = "".join(
        f"<li{' class=meant' * (hit.title == meant)}><figure>"
        f"{_img(thumbnail, hit.title)}<figcaption>{escape(hit.title)}"
        f'<span class="cosine">cosine {_signed(hit.cosine)}</span></figcaption></figure></li>'
        for hit, thumbnail in zip(found.hits, thumbnails, strict=True)
    )
    verdict = _verdict(found.expected, f"{meant}: found first", f"{meant}: came {found.expected}")
    return f'<div class="search"><h3>“{escape(found.query)}”</h3>{verdict}<ol class="hits">{hits}</ol></div>'


def _footer(labelled: Sequence[Labelled]) -> str:
    credits_ = "; ".join(f"{escape(item.title)}: {escape(item.credit)}" for item in labelled if item.credit)
    note = (
        "Probabilities are over the labels offered; a cosine compares a picture with a text in the shared "
        "space, 1 when they point the same way."
    )
    return f"<footer><p>{note}</p>" + (f"<p>Pictures: {credits_}.</p>" if credits_ else "") + "</footer>"


def _percent(probability: float) -> str:
    percent = 100 * probability
    return f"{percent:.0f} %" if percent >= 9.95 else f"{percent:.1f} %"


def _signed(cosine: float) -> str:
    return f"{cosine:.2f}".replace("-", "−")  # the minus sign, as wide as a digit


_STYLE = """
:root {
  --paper: #faf8f4; --card: #ffffff; --ink: #1d1b18; --soft: #6b655c; --line: #e4dfd5;
  --accent: #b4472b; --bar: #d9674a; --track: #f0ebe2; --right: #1f7a4a; --wrong: #b4472b;
  --text: ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  --display: ui-serif, "Iowan Old Style", Charter, "Source Serif Pro", Georgia, "DejaVu Serif", serif;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #171614; --card: #211f1c; --ink: #efebe4; --soft: #a39c90; --line: #35312c;
    --accent: #f0906f; --bar: #d9674a; --track: #2e2a26; --right: #6cc794; --wrong: #f0906f;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.5 var(--text); }
header, main, footer { max-width: 76rem; margin: 0 auto; padding: 0 clamp(1rem, 4vw, 2.5rem); }
header { padding-top: clamp(2rem, 6vw, 4.5rem); }
h1, h2, .search h3 { font-family: var(--display); font-weight: 600; line-height: 1.15; text-wrap: balance; }
h1 { font-size: clamp(2rem, 5.5vw, 3.4rem); letter-spacing: -.015em; margin: .3rem 0 1rem; }
h2 { font-size: clamp(1.4rem, 3vw, 1.9rem); margin: 3.5rem 0 1rem; }
.name { margin: 0; color: var(--accent); font-weight: 650; letter-spacing: .02em; }
.lead { max-width: 44rem; margin: 0 0 1.5rem; font-size: 1.1rem; color: var(--soft); }
.count { margin: 0 0 1.25rem; font-weight: 650; }
.verdict { margin: 0; font-size: .9rem; line-height: 1.35; }
.verdict.right { color: var(--right); }
.verdict.wrong { color: var(--wrong); }
.card .verdict { margin: 0 1rem .8rem; }
.search .verdict { margin: -.5rem 0 .9rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 1rem 2rem;
  margin: 2rem 0 0; padding: 1.25rem 0; border-block: 1px solid var(--line); }
dt { color: var(--soft); font-size: .85rem; }
dd { margin: 0; font-weight: 600; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
details { margin: 1.5rem 0 0; }
summary { cursor: pointer; color: var(--soft); }
summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 3px; }
.words { display: flex; flex-wrap: wrap; gap: .4rem; list-style: none; margin: .75rem 0 0; padding: 0; }
.words li { padding: .1rem .6rem; border: 1px solid var(--line); border-radius: 1rem; font-size: .9rem; }
.cards { display: grid; gap: 1.25rem;
  grid-template-columns: repeat(auto-fill, minmax(min(16rem, 100%), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .75rem; overflow: hidden; }
img { display: block; width: 100%; height: auto; aspect-ratio: 4 / 3; object-fit: cover;
  object-position: 50% 25%; }
.card h3 { margin: .9rem 1rem .6rem; font-size: 1rem; font-weight: 500; color: var(--soft); }
.scores { list-style: none; margin: 0; padding: 0 1rem 1.1rem; display: grid; gap: .7rem; }
.scores li { display: grid; grid-template-columns: 1fr 5.6rem; gap: .2rem .75rem; align-items: baseline; }
.scores li:first-child .label { font-weight: 650; }
.label { overflow-wrap: anywhere; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.scores .cosine { text-align: right; }
.bar { align-self: center; height: .45rem; border-radius: .25rem; background: var(--track); }
.bar i { display: block; height: 100%; min-width: 2px; border-radius: inherit; background: var(--bar); }
.scores li:not(:first-child) .bar i { opacity: .55; }
.cosine { color: var(--soft); font-size: .8rem; font-variant-numeric: tabular-nums; white-space: nowrap; }
.search { padding: 1.25rem 0 1.5rem; border-top: 1px solid var(--line); }
.search h3 { margin: 0 0 .9rem; font-size: 1.25rem; font-weight: 500; }
.hits { list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: 1rem; }
.hits li { flex: 1 1 8.5rem; max-width: 13rem; }
.hits figure { margin: 0; }
.hits img { border-radius: .5rem; border: 1px solid var(--line); }
.hits .meant img { outline: 3px solid var(--right); outline-offset: 2px; }
figcaption { display: flex; flex-direction: column; margin-top: .45rem; font-size: .9rem; line-height: 1.35; }
footer { margin-top: 3rem; padding-block: 1.5rem 3rem; color: var(--soft); font-size: .85rem; }
footer p { max-width: 60rem; }
@media print {
  :root { --paper: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #ccc; --track: #eee; }
  html { font-size: 11px; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  .card, .search { break-inside: avoid; }
  .cards { grid-template-columns: repeat(3, 1fr); }
  h2, h3 { break-after: avoid; }
}
"""

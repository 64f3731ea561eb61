"""The demo's page: one HTML file with its pictures inside, that opens anywhere and prints; and `page`, the
look that it shares (page.css). No script, no font, nothing fetched.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from headword.data.safe_images import load_image
from headword.files import write_text_atomic


class Score(NamedTuple):
    """How well a label fits a picture; the probability is over all labels."""

    label: str
    probability: float
    cosine: float


class Expected(NamedTuple):
    """What would have been right, and where it came: the rank, of how many there were to choose from."""

    name: str
    rank: int
    of: int

    @property
    def right(self) -> bool:
        """Whether it came first."""
        return self.rank == 1

    def __str__(self) -> str:
        """The rank in words: "3rd of 14"."""
        teen = self.rank % 100 in (11, 12, 13)
        ending = {1: "st", 2: "nd", 3: "rd"}.get(0 if teen else self.rank % 10, "th")
        return f"{self.rank}{ending} of {self.of}"


class Labelled(NamedTuple):
    """A picture and its best labels, best first; its own words are expected."""

    path: Path
    title: str
    scores: Sequence[Score]
    expected: Expected
    credit: str = ""


class Match(NamedTuple):
    """A picture that a search found."""

    path: Path
    title: str
    cosine: float


class Searched(NamedTuple):
    """A sentence and the pictures nearest to it, nearest first; the title of the one it means is expected."""

    query: str
    hits: Sequence[Match]
    expected: Expected


def write_demo_page(
    path: str | Path,
    *,
    labelled: Sequence[Labelled],
    searches: Sequence[Searched],
    facts: Sequence[tuple[str, str]],
    labels: Sequence[str],
    lead: str,
) -> None:
    """Write the demo's page, whole or not at all.

    Args:
        path: the HTML file; an old one is replaced.
        labelled: the pictures with their labels.
        searches: the sentences with what they found.
        facts: names and values of what was run and how long it took, for the end of the page.
        labels: every label that was offered, shown so that a reader can judge the choice.
        lead: a paragraph below the heading, as plain text.
    """
    title = "A classifier's head, turned into words"
    body = [
        f'<header><p class="name">headword</p><h1>{escape(title)}</h1>',
        f'<p class="lead">{escape(lead)}</p></header><main>',
        '<section aria-labelledby="labels"><h2 id="labels">Labelled with words that are not its classes</h2>',
        _count(labelled, "pictures got their own words first"),
        '<div class="cards">',
        *map(_card, labelled),
        "</div>",
        f"<details><summary>The {len(labels)} labels every picture could have had</summary>",
        f'<ul class="words">{"".join(f"<li>{escape(label)}</li>" for label in labels)}</ul></details>',
        "</section>",
        '<section aria-labelledby="searches"><h2 id="searches">Found by a sentence</h2>',
        _count(searches, "sentences found the picture that was meant first"),
        *map(_search, searches),
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
    look = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    head = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)} · headword</title>\n<style>\n{look}{style}</style></head>\n<body>\n"
    )
    return head + "\n".join(part for part in body if part) + "\n</body></html>\n"


def facts_list(facts: Sequence[tuple[str, str]]) -> str:
    """Names and values as HTML, for the head of a page."""
    rows = (f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    return f'<dl class="facts">{"".join(rows)}</dl>'


def _img(path: Path, side: int, title: str) -> str:
    """A picture of at most `side` pixels a side, inside the page."""
    image = load_image(path)
    image = image.copy() if max(image.size) > side else image
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82, optimize=True, progressive=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    size = f'width="{image.width}" height="{image.height}"'
    return f'<img src="data:image/jpeg;base64,{data}" {size} alt="{escape(title)}">'


def _count(judged: Sequence[Labelled | Searched], what: str) -> str:
    right = sum(one.expected.right for one in judged)
    return f'<p class="count">{right} of {len(judged)} {escape(what)}.</p>' if judged else ""


def _verdict(expected: Expected, right: str, wrong: str) -> str:
    """Right or wrong, in a line; where the expected one came is said by `wrong`."""
    kind, mark, text = ("right", "✓", right) if expected.right else ("wrong", "✗", wrong)
    return f'<p class="verdict {kind}"><span aria-hidden="true">{mark}</span> {escape(text)}</p>'


def _card(item: Labelled) -> str:
    wrong = f"Its own words, “{item.expected.name}”, came {item.expected}"
    rows = "".join(map(_score, item.scores))
    return (
        f'<article class="card">{_img(item.path, 520, item.title)}<h3>{escape(item.title)}</h3>'
        f"{_verdict(item.expected, 'Its own words came first', wrong)}"
        f'<ol class="scores">{rows}</ol></article>'
    )


def _score(score: Score) -> str:
    percent = 100 * score.probability
    return (
        f'<li><span class="label">{escape(score.label)}</span>'
        f'<span class="number">{percent:.{0 if percent >= 9.95 else 1}f} %</span>'
        f'<span class="bar" aria-hidden="true"><i style="width:{percent:.1f}%"></i></span>'
        f"{_cosine(score.cosine)}</li>"
    )


def _search(item: Searched) -> str:
    name = item.expected.name
    hits = "".join(
        f"<li{' class=meant' * (hit.title == name)}><figure>{_img(hit.path, 280, hit.title)}"
        f"<figcaption>{escape(hit.title)}{_cosine(hit.cosine)}</figcaption></figure></li>"
        for hit in item.hits
    )
    verdict = _verdict(item.expected, f"{name}: found first", f"{name}: came {item.expected}")
    return f'<div class="search"><h3>“{escape(item.query)}”</h3>{verdict}<ol class="hits">{hits}</ol></div>'


def _footer(labelled: Sequence[Labelled]) -> str:
    credits_ = "; ".join(f"{escape(item.title)}: {escape(item.credit)}" for item in labelled if item.credit)
    note = (
        "Probabilities are over the labels offered; a cosine compares a picture with a text in the shared "
        "space, 1 when they point the same way."
    )
    return f"<footer><p>{note}</p>" + (f"<p>Pictures: {credits_}.</p>" if credits_ else "") + "</footer>"


def _cosine(cosine: float) -> str:
    number = f"{cosine:.2f}".replace("-", "−")  # the minus sign, as wide as a digit
    return f'<span class="cosine">cosine {number}</span>'

"""A recipe's findings as one HTML file: what the paper found beside what was measured here."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

from experiments.figures import Figure
from experiments.recipes.recipe import Claim, Findings, Outcome, Recipe, Table, Verdict
from headword.demo.report import facts_list, page


def recipe_page(
    recipe: Recipe, findings: Findings, drawings: Mapping[str, bytes], facts: Sequence[tuple[str, str]]
) -> str:
    """The page of one recipe.

    Args:
        recipe: what was asked.
        findings: what came out.
        drawings: each figure as SVG, by its name.
        facts: names and values for the head of the page.
    """
    return page(
        recipe.title,
        [
            f'<header><p class="name">python -m experiments {escape(recipe.name)}</p>',
            f"<h1>{escape(recipe.title)}</h1>",
            f'<p class="lead">{escape(recipe.lead)}</p>',
            facts_list(facts),
            "</header><main>",
            '<section aria-labelledby="claims"><h2 id="claims">Found there, measured here</h2>',
            *(_claim(claim, findings.verdicts[claim.key]) for claim in recipe.claims),
            "</section>",
            '<section aria-labelledby="figures"><h2 id="figures">Figures</h2>' if findings.figures else "",
            *(_figure(figure, drawings[figure.name]) for figure in findings.figures),
            "</section>" if findings.figures else "",
            '<section aria-labelledby="numbers"><h2 id="numbers">Numbers</h2>',
            *(_table(table) for table in findings.tables),
            "</section></main>",
            _notes(findings.notes),
        ],
        style=_STYLE,
    )


def _claim(claim: Claim, verdict: Verdict) -> str:
    look = verdict.outcome.name
    return (
        f'<article class="claim {look}"><p class="outcome">{_SIGNS[verdict.outcome]} '
        f"{escape(verdict.outcome.value)}</p><dl>"
        f"<div><dt>The paper, with its encoders</dt><dd>{escape(claim.found)}</dd></div>"
        f"<div><dt>Here</dt><dd>{escape(verdict.measured)}</dd></div>"
        f"<div><dt>Counts as holding if</dt><dd>{escape(verdict.rule)}</dd></div></dl></article>"
    )


def _figure(figure: Figure, drawing: bytes) -> str:
    uri = f"data:image/svg+xml;base64,{base64.b64encode(drawing).decode()}"
    caption = escape(figure.caption)
    return (
        f'<figure class="plot"><img src="{uri}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
    )


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    rows = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in table.shown()
    )
    return (
        f'<div class="scroll"><table><caption>{escape(table.title)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _notes(notes: Sequence[str]) -> str:
    return "<footer>" + "".join(f"<p>{escape(note)}</p>" for note in notes) + "</footer>" if notes else ""


_SIGNS = {Outcome.holds: "✓", Outcome.fails: "✗", Outcome.open: "?", Outcome.absent: "–"}

_STYLE = """
.claim { margin: 0 0 1.25rem; padding: 1rem 1.25rem; background: var(--card); border: 1px solid var(--line);
  border-left: .35rem solid var(--soft); border-radius: .5rem; break-inside: avoid; }
.claim.holds { border-left-color: #009E73; }
.claim.fails { border-left-color: #D55E00; }
.outcome { margin: 0 0 .6rem; font-weight: 650; }
.claim dl { display: grid; gap: .75rem 2rem; margin: 0;
  grid-template-columns: repeat(auto-fit, minmax(min(17rem, 100%), 1fr)); }
.claim dd { font-weight: 400; }
.plot { margin: 0 0 2rem; break-inside: avoid; }
.plot img { background: #fff; border: 1px solid var(--line); border-radius: .5rem; padding: .75rem;
  box-sizing: border-box; aspect-ratio: auto; max-width: 100%; width: auto; }
.scroll { overflow-x: auto; margin: 0 0 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .95rem; }
caption { text-align: left; font-weight: 600; padding: 0 0 .5rem; }
th, td { padding: .3rem .9rem .3rem 0; text-align: right; font-weight: 400; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th:first-child { text-align: left; }
thead th { color: var(--soft); font-size: .85rem; vertical-align: bottom; white-space: normal; }
"""

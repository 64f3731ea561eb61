"""Run a recipe and write what it found: result JSON, figures for page and print, one HTML file."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from experiments.bench import Bench
from experiments.figures import FORMATS, draw
from experiments.findings import Findings, Outcome, Recipe, Verdict, parts
from experiments.records import Table
from headword.demo.report import facts_list, page
from headword.files import check_new_folder, new_folder, write_text_atomic
from headword.results import result_json

RESULT, PAGE, FIGURES = "result.json", "report.html", "figures"
SIGNS = {Outcome.holds: "✓", Outcome.fails: "✗", Outcome.open: "?", Outcome.absent: "–"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What a recipe found and where it was written."""

    recipe: Recipe
    findings: Findings
    parts: dict[str, Any]
    """What goes into the result JSON."""
    folder: Path


def check_place(out: Path, *, overwrite: bool = False) -> None:
    """Refuse a folder that a recipe could not be written to, before it runs.

    Raises:
        HeadwordError: if it holds something and may not be replaced.
    """
    check_new_folder(out, overwrite=overwrite, marker=RESULT, known=(PAGE, FIGURES))


def reproduce(recipe: Recipe, bench: Bench, out: Path, *, overwrite: bool = False) -> Published:
    """Run a recipe and write its folder, whole or not at all.

    Args:
        recipe: what to run.
        bench: what to run it on.
        out: a new folder; gets `result.json`, `report.html` and `figures/` in PNG, SVG and PDF.
        overwrite: replace an earlier result there.

    Raises:
        HeadwordError: if data is missing, an extra is not installed or the folder cannot be written.
    """
    check_place(out, overwrite=overwrite)
    bench.check(recipe.sets, recipe.weights)
    start = time.perf_counter()
    findings = recipe.run(bench)
    result = parts(recipe, findings, bench) | {"seconds": time.perf_counter() - start}
    # How busy the machine was over 1, 5 and 15 minutes, where it says so: what the seconds are worth.
    loads = os.getloadavg() if hasattr(os, "getloadavg") else None
    result["load_average"] = loads and [round(load, 1) for load in loads]
    with new_folder(out, overwrite=overwrite, marker=RESULT, known=(PAGE, FIGURES)) as folder:
        (folder / FIGURES).mkdir()
        for figure in findings.figures:
            for form in FORMATS:
                (folder / FIGURES / f"{figure.name}.{form}").write_bytes(draw(figure, form))
        write_text_atomic(folder / PAGE, recipe_page(recipe, findings, result, folder / FIGURES))
        text = json.dumps(result_json("experiments", **result), indent=1, ensure_ascii=False, allow_nan=False)
        write_text_atomic(folder / RESULT, text + "\n")
    return Published(recipe=recipe, findings=findings, parts=result, folder=out)


def recipe_page(recipe: Recipe, findings: Findings, result: Mapping[str, Any], figures: Path) -> str:
    """A recipe's findings as one HTML file: what the paper found beside what was measured here.

    Args:
        recipe: what was asked.
        findings: what came out.
        result: the same as in the JSON.
        figures: the folder with each figure as SVG.
    """
    outcomes = [verdict.outcome for verdict in findings.verdicts.values()]
    measured = len(outcomes) - outcomes.count(Outcome.absent)
    facts = [
        ("Findings that hold here", f"{outcomes.count(Outcome.holds)} of {measured} measured"),
        ("Encoders", ", ".join(name for name in result["model"] if name != "text")),
        ("Data", ", ".join(recipe.sets) or "none"),
        ("Seed", str(result["seed"])),
        ("Seconds", f"{result['seconds']:.0f}"),
    ]
    drawings = [_drawing((figures / f"{one.name}.svg").read_bytes(), one.caption) for one in findings.figures]
    return page(
        recipe.title,
        [
            f'<header><p class="name">python -m experiments {escape(recipe.name)}</p>',
            f"<h1>{escape(recipe.title)}</h1>",
            f'<p class="lead">{escape(recipe.lead)}</p>',
            facts_list(facts),
            "</header><main>",
            *_section("claims", "Found there, measured here",
                      [_claim(found, findings.verdicts[key]) for key, found in recipe.claims.items()]),
            *_section("figures", "Figures", drawings),
            *_section("numbers", "Numbers", [_table(table) for table in findings.tables]),
            "</main>",
            *(["<footer>", *(f"<p>{escape(note)}</p>" for note in findings.notes), "</footer>"]
              if findings.notes else ()),
        ],
        style=_STYLE,
    )  # fmt: skip


def _section(name: str, title: str, content: Sequence[str]) -> Sequence[str]:
    head = f'<section aria-labelledby="{name}"><h2 id="{name}">{title}</h2>'
    return (head, *content, "</section>") if content else ()


def _claim(found: str, verdict: Verdict) -> str:
    facts = (
        ("The paper, with its encoders", found), ("Here", verdict.measured),
        ("Counts as holding if", verdict.rule),
    )  # fmt: skip
    rows = "".join(f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    outcome = f"{SIGNS[verdict.outcome]} {escape(verdict.outcome.value)}"
    head = f'<article class="claim {verdict.outcome.name}"><p class="outcome">{outcome}</p>'
    return f"{head}<dl>{rows}</dl></article>"


def _drawing(svg: bytes, caption: str) -> str:
    uri, text = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode()}", escape(caption)
    return f'<figure class="plot"><img src="{uri}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    rows = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in table.shown()
    )
    return (
        f'<div class="scroll"><table><caption>{escape(table.title)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


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

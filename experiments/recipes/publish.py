"""Run a recipe and write what it found: result JSON, figures for page and print, one HTML file."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.figures import FORMATS, draw
from experiments.recipes.bench import Bench
from experiments.recipes.page import recipe_page
from experiments.recipes.recipe import Findings, Outcome, Recipe, parts
from headword.files import check_new_folder, new_folder, write_text_atomic
from headword.results import result_json

RESULT = "result.json"
PAGE = "report.html"
FIGURES = "figures"


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
    seconds = time.perf_counter() - start
    said = parts(recipe, findings, bench.seed) | {"seconds": seconds, "load_average": _load()}
    with new_folder(out, overwrite=overwrite, marker=RESULT, known=(PAGE, FIGURES)) as folder:
        drawings = {}
        (folder / FIGURES).mkdir()
        for figure in findings.figures:
            for form in FORMATS:
                drawn = draw(figure, form)
                (folder / FIGURES / f"{figure.name}.{form}").write_bytes(drawn)
                if form == "svg":
                    drawings[figure.name] = drawn
        facts = _facts(recipe, findings, bench, seconds)
        write_text_atomic(folder / PAGE, recipe_page(recipe, findings, drawings, facts))
        result = json.dumps(result_json("experiments", **said), indent=1, ensure_ascii=False, allow_nan=False)
        write_text_atomic(folder / RESULT, result + "\n")
    return Published(recipe=recipe, findings=findings, parts=said, folder=out)


def _load() -> list[float] | None:
    """How busy the machine was over 1, 5 and 15 minutes, where it says so: what the seconds are worth."""
    return [round(load, 1) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None


def _facts(recipe: Recipe, findings: Findings, bench: Bench, seconds: float) -> list[tuple[str, str]]:
    outcomes = [verdict.outcome for verdict in findings.verdicts.values()]
    measured = len(outcomes) - outcomes.count(Outcome.absent)
    return [
        ("Findings that hold here", f"{outcomes.count(Outcome.holds)} of {measured} measured"),
        ("Encoders", ", ".join(name for name in findings.model if name != "text")),
        ("Data", ", ".join(recipe.sets) or "none"),
        ("Seed", str(bench.seed)),
        ("Seconds", f"{seconds:.0f}"),
    ]

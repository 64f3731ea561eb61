"""Every recipe, or those that are named, into results/reproduce/: JSON and PNG.

Reports, SVG and PDF are not kept: `python -m experiments NAME` makes them. The first run computes features
and fits the paper's MLP, which takes up to an hour; later ones read both from the cache.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from experiments import harness
from experiments.bench import Bench, data_root
from experiments.recipes import RECIPES
from experiments.report import FIGURES, RESULT, reproduce
from headword.errors import HeadwordError, near


def run(
    names: Annotated[list[str] | None, typer.Argument(help="Recipes; all when none.")] = None,
) -> dict[str, Any]:
    """Run them and keep what documentation shows."""
    for name in names or ():
        if name not in RECIPES:
            raise HeadwordError(f"there is no recipe {name!r}{near(name, RECIPES, n=1)}")
    bench, seconds = Bench(root=data_root(), say=print), {}
    for name in names or RECIPES:
        with tempfile.TemporaryDirectory() as folder:
            done = reproduce(RECIPES[name], bench, Path(folder) / name)
            kept = harness.RESULTS / "reproduce" / name
            shutil.rmtree(kept, ignore_errors=True)
            kept.mkdir(parents=True)
            for file in (done.folder / RESULT, *(done.folder / FIGURES).glob("*.png")):
                shutil.copy(file, kept)
        seconds[name] = done.parts["seconds"]
        print(f"{name}: {seconds[name]:.0f} s, load {done.parts['load_average']}")
    return {"file": "reproduce/seconds", "seconds": seconds}

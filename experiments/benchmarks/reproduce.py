"""Every recipe of `python -m experiments`, or those that are named, into results/reproduce/: JSON and PNG.

    python -m experiments reproduce
    python -m experiments reproduce setting-2 few-shot

Reports, SVG and PDF are not kept: `python -m experiments` makes them. The first run computes features and
fits the paper's MLP, which takes up to an hour; later ones read both from the cache.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from experiments.benchmarks.common import RESULTS, data_root
from experiments.recipes import RECIPES, recipe_of
from experiments.recipes.bench import Bench
from experiments.recipes.publish import RESULT, reproduce


def main() -> None:
    recipes = [recipe_of(name) for name in sys.argv[1:]] or list(RECIPES.values())
    bench = Bench(root=data_root().parent, say=print)
    for recipe in recipes:
        with tempfile.TemporaryDirectory() as folder:
            done = reproduce(recipe, bench, Path(folder) / recipe.name)
            keep(done.folder, RESULTS / "reproduce" / recipe.name)
        print(f"{recipe.name}: {done.parts['seconds']:.0f} s, load {done.parts['load_average']}")


def keep(made: Path, kept: Path) -> None:
    """The result and the PNGs of a recipe's folder, in place of older ones."""
    shutil.rmtree(kept, ignore_errors=True)
    kept.mkdir(parents=True)
    shutil.copy(made / RESULT, kept)
    for png in (made / "figures").glob("*.png"):
        shutil.copy(png, kept)


if __name__ == "__main__":
    main()

"""The papers' experiments, each as settings and a function, run by one command.

    recipe.py   what a recipe is, and what it finds
    bench.py    what recipes measure on
    measure.py  zero-shot and retrieval as recipes measure them
    caption_sweep.py, moments.py  the sweep over captions of Setting II
    page.py     findings → one HTML file
    publish.py  findings → result JSON, figures, page

To add a recipe, write a file with a `RECIPE` and name it in `RECIPES`.
"""

from __future__ import annotations

from experiments.recipes import (
    beyond,
    cosine_classifier,
    equal_budget,
    few_shot,
    modality_gap,
    neighbourhoods,
    setting_1,
    setting_2,
    sources,
)
from experiments.recipes.recipe import Findings, Recipe
from headword.errors import HeadwordError, near

__all__ = ["RECIPES", "Findings", "Recipe", "recipe_of"]

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        cosine_classifier.RECIPE,
        neighbourhoods.RECIPE,
        setting_1.RECIPE,
        setting_2.RECIPE,
        few_shot.RECIPE,
        modality_gap.RECIPE,
        sources.RECIPE,
        equal_budget.RECIPE,
        beyond.RECIPE,
    )
}
"""Every recipe by its name, in the paper's order, then our own."""


def recipe_of(name: str) -> Recipe:
    """A recipe by its name.

    Raises:
        HeadwordError: if there is none, with the nearest.
    """
    if name not in RECIPES:
        hint = near(name, RECIPES, n=1)
        raise HeadwordError(f"there is no recipe {name!r}{hint or '.'} The recipes are {', '.join(RECIPES)}")
    return RECIPES[name]

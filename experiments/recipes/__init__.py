"""The papers' experiments and ours, each as settings and a function.

To add one, write a file with a `RECIPE` and name it in `RECIPES`.
"""

from __future__ import annotations

from experiments.findings import Recipe
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

RECIPES: dict[str, Recipe] = {
    module.RECIPE.name: module.RECIPE
    for module in (
        cosine_classifier, neighbourhoods, setting_1, setting_2, few_shot, modality_gap, sources,
        equal_budget, beyond,
    )
}  # fmt: skip
"""Every recipe by its name, in the paper's order, then our own."""

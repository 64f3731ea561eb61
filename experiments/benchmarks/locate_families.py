"""Which families of timm say where: a small model of each with random weights: exact, approximate, refused.

A family is a module of timm's; the model is the one whose name calls itself the smallest. Exact: the mean
over places is the feature to 1e-4 of its norm, on a random picture.
"""

from __future__ import annotations

import time
import warnings
from typing import Annotated, Any

import timm
import torch
import typer
from torch import nn

from headword.dense.places import place_readers
from headword.encoders import load_vision
from headword.errors import HeadwordError

NAMES = ("cat", "dog", "horse", "cow", "sheep", "car", "bus", "tree", "house", "boat")
SMALL = (
    "atto", "femto", "pico", "nano", "xxs", "050", "035", "xx_small", "x_small", "micro", "tiny", "_ti",
    "_b0", "_s0", "_m0", "10t", "s12", "small", "14t", "18", "26", "11",
)  # fmt: skip
"""What small models call themselves, the smallest first."""


def run(
    families: Annotated[
        str, typer.Option(help="Names, parted by commas; all of timm's when not given.")
    ] = "",
) -> dict[str, Any]:
    """Try one model of each family."""
    found = {}
    for family in families.split(",") if families else timm.list_modules():
        begun = time.process_time()
        found[family] = tried(smallest(family))
        print(f"{family:28s} {found[family]}  {time.process_time() - begun:.0f} s", flush=True)
    return {"metrics": found, "seed": 0}


def smallest(family: str) -> str:
    """The model of a family whose name says that it is the smallest."""

    def rank(name: str) -> tuple[bool, int, int]:
        signs = [n for n, sign in enumerate(SMALL) if sign in name]
        return name.startswith("test_") or "clip" in name, min(signs, default=len(SMALL)), len(name)

    return str(min(timm.list_models(module=family), key=rank))


def tried(name: str) -> dict[str, Any]:
    """What one model says of its places."""
    torch.manual_seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = timm.create_model(name, num_classes=len(NAMES)).eval()
        for layer in model.modules():  # some heads begin as zeros, and norms as nothing
            if isinstance(layer, nn.Linear) and layer.out_features == len(NAMES):
                nn.init.normal_(layer.weight, std=0.02)
        vision = load_vision(model, names=NAMES, device="cpu", dtype="float32")
    except Exception as error:  # what is no classifier by itself, in any of the ways there are
        return {"model": name, "places": "no classifier", "why": f"{type(error).__name__}: {error}"[:200]}
    try:
        (reader,) = place_readers(vision)
    except HeadwordError as error:
        return {"model": name, "places": "refused", "why": str(error).partition(": ")[2][:200]}
    sides = vision.source.input_size
    places = reader(torch.randn(3, *sides, generator=torch.Generator().manual_seed(1)))
    return {
        "model": name,
        "places": "exact" if reader.exact else "approximate",
        "by": reader.loss.kind,
        "grid": list(places.cells.shape[1:]),
        "error": float(f"{places.error:.1e}"),
        "other_sizes": reader.takes(sides[0] + 64, sides[1] + 128),
    }

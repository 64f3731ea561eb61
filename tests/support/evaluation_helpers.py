"""A model of colours: an image's features are its mean RGB, a text's the colours it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from headword.aligners import Identity, make_aligner
from headword.aligners.pairs import Pairs
from headword.encoders import TextSource, VisionSource, load_text, load_vision
from headword.evaluation import Protocol, Result, evaluate
from headword.evaluation.evaluating import Model
from headword.model import DualEncoder
from headword.scoring.calibration import Scores
from headword.scoring.centring import Centre

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}


class _Mean(nn.Module):
    """Pictures `[N, 3, H, W]` → their mean colours; counts how many it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, pixels: Tensor) -> Tensor:
        self.seen.append(len(pixels))
        return pixels.mean(dim=(2, 3))


def _transform(image: Image.Image) -> Tensor:
    pixel = image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    return (torch.tensor(pixel).float() / 255).view(3, 1, 1)


class _Words(nn.Module):
    """Texts → the sum of the colours they name; counts what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []

    def embed(self, texts: list[str]) -> Tensor:
        self.read += texts
        words = [[torch.tensor(rgb) / 255 for name, rgb in COLOURS.items() if name in t] for t in texts]
        return torch.stack([torch.stack([*found, torch.full((3,), 1e-3)]).sum(dim=0) for found in words])


def colours_model(name: str = "colours", *, fitted: bool = False) -> DualEncoder:
    """Pictures' mean colours and the colours that texts name, in one space.

    `vision.source.model.seen` and `text.source.model.read` say what the encoders were given.

    Args:
        name: of both encoders.
        fitted: whether a mapping is fitted on pairs of colours, as a recycled model has one.
    """
    image, words = _Mean(), _Words()
    source = VisionSource(
        kind="own",
        id=name,
        model=image,
        transform=_transform,
        transform_settings={},
        input_size=(1, 1),
        tower=True,
    )
    vision = load_vision(source, device="cpu", dtype="float32")
    text = load_text(TextSource(kind="own", id=name, model=words, embed=words.embed), device="cpu")
    pairs = None
    if fitted:
        names = tuple(COLOURS)
        pairs = Pairs(torch.tensor([COLOURS[name] for name in names]) / 255, text.encode(names), names)
    image.seen.clear()  # of what loading tries
    words.read.clear()
    return DualEncoder(
        vision=vision,
        text=text,
        aligner=Identity.of(3) if pairs is None else make_aligner("procrustes").fit(pairs),
        pairs=pairs,
        templates=("{}",),
        scores=Scores(20.0, 20.0, 0.2),
        centre=Centre("default"),
        training={},
    )


def measured(model: Model, **settings: Any) -> Result:
    """What a protocol says of one model."""
    (result,) = evaluate(model, Protocol(**settings))
    return result


def paint(path: Path, colour: str, shade: int = 0) -> Path:
    """A small picture of a colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rgb = tuple(abs(channel - shade) for channel in COLOURS[colour])
    Image.new("RGB", (8, 8), rgb).save(path)
    return path


def painted(root: Path, each: int = 3, colours: tuple[str, ...] = ("red", "green", "blue")) -> Path:
    """Class folders of colours."""
    for colour in colours:
        for number in range(each):
            paint(root / colour / f"{number}.png", colour, 9 * number)
    return root

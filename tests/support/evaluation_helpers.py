"""A model of colours: an image's features are its mean RGB, a text's the colours it names."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from headword.encoders import TextSource, VisionSource, load_text, load_vision

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}


class _Mean(nn.Module):
    """Pictures `[N, 3, H, W]` → their mean colours; counts how many it is given."""

    def __init__(self, seen: list[int]) -> None:
        super().__init__()
        self.seen = seen

    def forward(self, pixels: Tensor) -> Tensor:
        self.seen.append(len(pixels))
        return pixels.mean(dim=(2, 3))


def _transform(image: Image.Image) -> Tensor:
    pixel = image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    return (torch.tensor(pixel).float() / 255).view(3, 1, 1)


class Colours:
    """See `headword.evaluation.subjects.Subject`; counts what its encoders are given."""

    def __init__(self, name: str = "colours") -> None:
        self.name = name
        self.templates = ("{}",)
        self.hypernym_weight = 0.0
        self.scale = 20.0
        self.seen: list[int] = []
        self.read: list[str] = []
        self.centre = torch.zeros(3)
        source = VisionSource(
            kind="own",
            id=name,
            model=_Mean(self.seen),
            transform=_transform,
            transform_settings={},
            input_size=(1, 1),
            tower=True,
        )
        self.vision = load_vision(source, device="cpu", dtype="float32")
        self.text = load_text(TextSource(kind="own", id=name, model=nn.Identity(), embed=self._embed))
        self.seen.clear()  # of what loading tries
        self.read.clear()

    def _embed(self, texts: list[str]) -> Tensor:
        self.read += texts
        words = [[torch.tensor(rgb) / 255 for name, rgb in COLOURS.items() if name in t] for t in texts]
        return torch.stack([torch.stack([*found, torch.full((3,), 1e-3)]).sum(dim=0) for found in words])

    def image_embeds(self, features):
        return F.normalize(features - self.centre, dim=1)

    def text_embeds(self, features):
        return F.normalize(features, dim=1)

    def centred_on(self, features, source):  # noqa: ARG002
        copy = Colours(self.name)
        copy.centre = features.mean(dim=0)
        return copy

    def with_pairs(self, pairs):
        self.pairs = pairs
        return self

    def provenance(self):
        return {"centre": self.centre.tolist()}


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

"""A bench without encoders: classes are points in a small space that rows, images and words are views of."""

from __future__ import annotations

import zlib
from pathlib import Path

import torch
import torch.nn.functional as F

from experiments.bench import EMBEDDED, HEADS, Bench, Captions, Head, Labelled
from headword.head.names import ClassName

LATENT, WIDTH, TEXT = 6, 24, 16
SETS = {
    "imagenet_sample": (40, 1),
    "tiny_imagenet": (20, 12),
    "caltech101": (14, 16),
    "cifar10": (5, 20),
    "tf_flowers": (4, 18),
}
"""Classes and images a class."""


class Planted(Bench):
    """Rows lie `gap` away from images; images have noise, words little."""

    gap = 2.0
    noise = 2.0
    row_noise = 0.05

    def head(self, name=EMBEDDED):
        names = [f"thing {n}" for n in range(40)]
        own = sum(map(ord, name))
        rows = self._eye(self._latent(names)) + self.gap * self._random(1, WIDTH, seed=9)
        rows += self.row_noise * self._random(40, WIDTH, seed=own)
        return Head(
            name=name,
            title=HEADS[name],
            rows=rows,
            bias=torch.zeros(40),
            classes=tuple(ClassName(word, (f"res {word}",)) for word in names),
            text=self.words(names),
        )

    def labelled(self, data, head=EMBEDDED):
        classes, each = SETS[data]
        names = [f"thing {n}" for n in range(classes)]
        if data in ("cifar10", "tf_flowers"):
            names = [f"{data} {n}" for n in range(classes)]
        labels = torch.arange(classes).repeat_interleave(each)
        features = self._eye(self._latent(names))[labels]
        features = features + self.noise * self._random(len(labels), WIDTH, seed=len(data + head))
        return Labelled(name=data, features=features, labels=labels, names=tuple(names))

    def captions(self, split, head=EMBEDDED):
        n = {"train": 120, "val": 40, "test": 50}[split]
        places = [f"{split} {i}" for i in range(n)]
        features = self._eye(self._latent(places)) + 2.0 * self._random(n, WIDTH, seed=len(split + head))
        owner = torch.arange(n).repeat_interleave(3)
        text = self._ear(self._latent(places))[owner] + 2.0 * self._random(3 * n, TEXT, seed=n)
        return Captions(features=features, text=F.normalize(text, dim=1), owner=owner)

    def words(self, texts, template="{}"):
        prompt = 0.1 * self._random(1, TEXT, seed=len(template))
        return F.normalize(self._ear(self._latent([t.removeprefix("res ") for t in texts])) + prompt, dim=1)

    def provenance(self, *heads):
        return {HEADS[name]: {"kind": "planted"} for name in heads or (EMBEDDED,)} | {"text": {}}

    def check(self, sets, weights=()):  # noqa: ARG002
        assert set(sets) <= {*SETS, "flickr8k"}

    def _latent(self, texts):
        return torch.cat([self._random(1, LATENT, seed=zlib.crc32(text.encode())) for text in texts])

    def _eye(self, latent):
        return latent @ self._random(LATENT, WIDTH, seed=1)

    def _ear(self, latent):
        return latent @ self._random(LATENT, TEXT, seed=2)

    def _random(self, *shape, seed):
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed % 2**31))


def planted(**settings) -> Planted:
    """A bench for quick runs."""
    return Planted(**{"root": Path(), **settings, "draws": 2, "permutations": 99, "epochs": 2})


def flat(points, *, seed):
    """In place of UMAP, whose first use in a process compiles for many seconds."""
    return points[:, :2]


def drawn(figure, form):
    """In place of matplotlib, which takes a second a figure."""
    return f"<svg>{figure.name} {form}</svg>".encode()

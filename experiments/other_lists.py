"""Twelve lists of labels to choose numbers on, so that the sets of the figures choose none.

Four lists of ten broader names ("monkey", "headdress") of ImageNet's classes, by WordNet, with the pictures
of imagenet_sample, each as it is and reduced to 32 pixels: the mapping is fitted without the list's classes.
And four lists of words in the captions of flickr8k's val: things, places, people, sports; a picture has the
words that two of its captions have.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from experiments.bench import Bench
from experiments.words import Texts, stages
from headword.aligners import KernelRidge
from headword.data.captions import read_captions
from headword.extract import image_features
from headword.head.wordnet import wordnet

LISTS, NAMES, SMALL = 4, 10, 32
LEAST, MOST = 8, 30  # classes of a broader name
CAPTIONED = {
    "things": ("ball", "bicycle", "hat", "skateboard", "boat", "toy", "bench", "stick", "rock", "jacket"),
    "places": ("snow", "beach", "grass", "street", "field", "pool", "mountain", "lake", "ocean", "park"),
    "people": ("man", "woman", "boy", "girl", "baby", "crowd", "player", "skateboarder", "group", "child"),
    "sports": ("tennis", "soccer", "basketball", "baseball", "football", "frisbee", "climbing", "swimming"),
}


class Listed(NamedTuple):
    """A list of labels, and pictures that have some of them."""

    name: str
    words: Tensor
    """`[L, D]` unit norm."""
    images: Tensor
    """`[N, D]` unit norm, centred on themselves."""
    has: Tensor
    """bool `[N, L]`."""


def lists(bench: Bench, texts: Texts) -> Iterator[Listed]:
    """The twelve."""
    default, head = stages()[-1], bench.head()
    for number, broader in enumerate(_broader_names(bench)):
        classes = sorted(row for rows in broader.values() for row in rows)
        kept = torch.tensor([row for row in range(len(head.rows)) if row not in classes])
        aligner = KernelRidge().fit(texts.pairs(head, default, kept))
        has = torch.tensor([[row in rows for rows in broader.values()] for row in classes])
        folder = bench.root / "data" / "imagenet_sample"
        files = sorted(folder.glob("*/*"))
        pictures = [Image.open(files[row]).convert("RGB") for row in classes]
        little = [picture.resize((SMALL, SMALL), Image.Resampling.BICUBIC) for picture in pictures]
        for title, those in (("", pictures), (", 32 pixels", little)):
            features = image_features(bench.vision(), those)
            centred = aligner.centred_on(features)
            words = centred.text(texts.labels(list(broader), default))
            yield Listed(f"broader names {number + 1}{title}", words, centred.image(features), has)
    entries = read_captions(bench.root / "data" / "flickr8k" / "captions.jsonl", split="val")
    said = [Counter(word for text in entry.captions for word in _words(text)) for entry in entries]
    features = bench.captions("val").features
    centred = KernelRidge().fit(texts.pairs(head, default)).centred_on(features)
    for name, labels in CAPTIONED.items():
        has = torch.tensor([[one[label] >= 2 for label in labels] for one in said])
        words = centred.text(texts.labels(list(labels), default))
        yield Listed(f"captions, {name}", words, centred.image(features), has)


def _words(text: str) -> set[str]:
    words = set(re.findall("[a-z]+", text.lower()))
    return words | {word.removesuffix("s") for word in words}


def _broader_names(bench: Bench) -> list[dict[str, list[int]]]:
    """`LISTS` times `NAMES` broader names and their classes' rows; none is of two names of a list."""
    nouns, below = wordnet(), dict[str, list[int]]()
    for row, entry in enumerate(bench.head().classes):
        for ancestor in nouns.ancestors(str(entry.id)):
            below.setdefault(ancestor, []).append(row)
    possible = sorted(wnid for wnid, rows in below.items() if LEAST <= len(rows) <= MOST)
    random.Random(0).shuffle(possible)
    found: list[dict[str, list[int]]] = [{} for _ in range(LISTS)]
    for wnid in possible:
        for one in found:
            taken = {row for rows in one.values() for row in rows}
            elsewhere = any(nouns[wnid].names[0] in other for other in found)
            if len(one) < NAMES and not elsewhere and not taken & set(below[wnid]):
                one[nouns[wnid].names[0]] = below[wnid]
                break
    return found

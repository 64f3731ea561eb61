"""The shapes protocol: fine-grained questions and retrieval on generated pictures, for any two encoders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import TypeAlias

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from headword.data.shapes import ATTRIBUTES, Shapes, questions
from headword.metrics import retrieval_metrics, retrieval_places

EncodeImages: TypeAlias = Callable[[list[Image.Image]], Tensor]  # N RGB images → `[N, D]`
EncodeTexts: TypeAlias = Callable[[list[str]], Tensor]  # M texts → `[M, D]`
BATCH = 256  # images or texts that are encoded in one call


def evaluate_shapes(
    encode_images: EncodeImages,
    encode_texts: EncodeTexts,
    *,
    split: str = "test",
    images: int | None = None,
    size: int = 64,
    seed: int = 0,
) -> dict[str, float]:
    """What two encoders, compared by cosine, see of pictures of `headword.data.shapes`, in percent.

    `split` is "test" (combinations of shape and colour that training never showed) or "val" (those it did).
    For each attribute the questions answered right, the right caption strictly ahead of all that differ in
    that attribute alone; `overall`, their mean; `chance_…`, what guessing gives; `i2t_r1` and `t2i_r1` over
    the pictures whose standard caption no earlier one has, and `retrieval_images`, how many these are.
    """
    data = Shapes(split, images=images, size=size, seed=seed)
    asked = [questions(data.scene(index)) for index in range(len(data))]
    captions = [of_picture[0].candidates[0] for of_picture in asked]
    texts = list(dict.fromkeys(text for group in asked for question in group for text in question.candidates))
    place = {text: row for row, text in enumerate(texts)}
    words = _unit(encode_texts(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH))
    # Pictures are drawn a batch at a time: a large set need not fit in memory.
    batches = (range(start, min(start + BATCH, len(data))) for start in range(0, len(data), BATCH))
    pictures = _unit(encode_images([data[index].image for index in batch]) for batch in batches)
    cosines = pictures @ words.T  # [N, M]
    right: dict[str, list[float]] = {attribute: [] for attribute in ATTRIBUTES}
    chance: dict[str, list[float]] = {attribute: [] for attribute in ATTRIBUTES}
    for row, group in enumerate(asked):
        for question in group:
            scores = cosines[row, [place[text] for text in question.candidates]]
            right[question.attribute].append(float((scores[0] > scores[1:]).all()))
            chance[question.attribute].append(1 / len(question.candidates))
    first = [row for row, caption in enumerate(captions) if caption not in captions[:row]]
    own = words[[place[captions[row]] for row in first]]
    recall = retrieval_metrics(retrieval_places(pictures[first], own, torch.arange(len(first))), ks=(1,))
    return {
        **_percent(right, ""),
        **_percent(chance, "chance_"),
        "i2t_r1": recall["i2t_r1"],
        "t2i_r1": recall["t2i_r1"],
        "retrieval_images": float(len(first)),
    }


def _percent(values: Mapping[str, Sequence[float]], prefix: str) -> dict[str, float]:
    """The mean for each attribute that was asked for, and the mean of these."""
    means = {f"{prefix}{name}": 100 * fmean(each) for name, each in values.items() if each}
    return {**means, f"{prefix}overall": fmean(means.values())}


def _unit(parts: Iterable[Tensor]) -> Tensor:
    return F.normalize(torch.cat([part.detach().float().cpu() for part in parts]), dim=1)

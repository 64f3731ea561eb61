"""What a training run is measured on as it goes: generated shapes, captions, or classes by name.

The first metric of the first evaluator says which checkpoint is the best, where `best_metric` names none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from headword.data.captions import Captioned, read_captions
from headword.data.images import load_image
from headword.data.shapes import ATTRIBUTES
from headword.data.splits import WATCHED
from headword.encoders.prompts import DEFAULT_TEMPLATE
from headword.evaluation.features import Readable
from headword.evaluation.shapes import EncodeImages, EncodeTexts, evaluate_shapes
from headword.evaluation.sources import LabelledImages, open_images
from headword.evaluation.zero_shot import METRIC, check_spoken
from headword.files import expand
from headword.metrics import Places, classification_metrics, retrieval_metrics, retrieval_places
from headword.superclip.config import TrainConfig
from headword.superclip.model import SuperCLIP
from headword.superclip.train import Evaluator
from headword.superclip.trained import encoders_of

BATCH = 64
"""Images that are decoded and encoded together."""

KS = (10, 5, 1)

SHAPES = ("overall", *ATTRIBUTES, "i2t_r1", "t2i_r1")
"""What `measure_shapes` measures."""


def training_evaluators(config: TrainConfig) -> dict[str, Evaluator]:
    """The evaluators that a configuration means; none where neither the data nor `eval_data` gives one.

    `shapes` is measured on its validation split, which has the combinations of training: the held-out ones
    are for the end.

    Raises:
        HeadwordError: if `eval_data` is not there, or is of no kind that can be measured on.
    """
    found: dict[str, Evaluator] = {}
    if is_shapes(config.data):
        found["shapes"] = Evaluator(SHAPES, partial(measure_shapes, split="val"))
    if config.eval_data is None:
        return found
    path = expand(config.eval_data)
    if path.is_file():
        found["retrieval"] = _retrieval(read_captions(path, split=config.eval_split, default=WATCHED))
    else:
        data = open_images(config.eval_data, split=config.eval_split, default=WATCHED)
        check_spoken(data)
        found["zero_shot"] = _zero_shot(data)
    return found


def is_shapes(data: str) -> bool:
    """Whether a name of training data means the generated set."""
    return data.partition(":")[0] == "shapes" and not expand(data).exists()


def measure_shapes(model: SuperCLIP, *, split: str) -> dict[str, float]:
    """Fine-grained questions, see `headword.evaluation.shapes`; without what guessing gives."""
    images, texts = encoders_of(model)
    metrics = evaluate_shapes(images, texts, split=split, size=model.clip.visual.image_size[0])
    told = {name: value for name, value in metrics.items() if not name.startswith(("chance", "retrieval"))}
    return {"overall": told.pop("overall"), **told}


def _retrieval(entries: Sequence[Captioned]) -> Evaluator:
    """Recall@k both ways and what else `retrieval_metrics` gives."""
    ks = [k for k in KS if k < len(entries) or k == 1]
    captions = [caption for entry in entries for caption in entry.captions]
    owner = torch.tensor([row for row, entry in enumerate(entries) for _ in entry.captions])

    def score(places: Places) -> dict[str, float]:
        metrics, first = retrieval_metrics(places, ks), f"t2i_r{max(ks)}"
        return {first: metrics.pop(first), **metrics}

    def measure(model: SuperCLIP) -> dict[str, float]:
        encode_images, encode_texts = encoders_of(model)
        images = _images(encode_images, [entry.image for entry in entries])
        return score(retrieval_places(images, _texts(encode_texts, captions), owner))

    ones, rows = torch.ones(max(ks), dtype=torch.int64), torch.arange(max(ks))
    return Evaluator(tuple(score(Places(caption=ones, image=ones, owner=rows, n_images=max(ks)))), measure)


def _zero_shot(data: LabelledImages) -> Evaluator:
    """Mean per-class and top-k accuracy, each class being the mean of its prompts."""
    templates = data.templates or (DEFAULT_TEMPLATE,)
    prompts = [template.replace("{}", name) for template in templates for name in data.names]
    ks = [k for k in (1, 5) if k < len(data.names) or k == 1]

    def score(cosines: Tensor, labels: Tensor) -> dict[str, float]:
        metrics = classification_metrics(cosines, labels, ks)
        return {METRIC: metrics.pop(METRIC), **metrics}

    def measure(model: SuperCLIP) -> dict[str, float]:
        encode_images, encode_texts = encoders_of(model)
        images = _images(encode_images, data.images)
        words = _texts(encode_texts, prompts).view(len(templates), len(data.names), -1).mean(dim=0)
        return score(images @ F.normalize(words, dim=1).T, torch.tensor(data.labels))

    return Evaluator(tuple(score(torch.zeros(1, len(data.names)), torch.tensor([0]))), measure)


def _images(encode: EncodeImages, images: Sequence[Readable]) -> Tensor:
    batches = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
    return _unit(encode([_read(image) for image in batch]) for batch in batches)


def _read(image: Readable) -> Image.Image:
    return load_image(image() if callable(image) else image)


def _texts(encode: EncodeTexts, texts: Sequence[str]) -> Tensor:
    return _unit(encode(list(texts[start : start + BATCH])) for start in range(0, len(texts), BATCH))


def _unit(parts: Iterable[Tensor]) -> Tensor:
    return F.normalize(torch.cat([part.float().cpu() for part in parts]), dim=1)

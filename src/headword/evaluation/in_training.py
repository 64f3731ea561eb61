"""What a training run is measured on as it goes: generated shapes, captions, or classes by name.

An evaluator takes a model and returns percentages by name; the first is the one that says
which checkpoint is the best.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from headword.data.captions import Captioned, caption_splits, read_captions
from headword.data.images import load_image
from headword.encoders.prompts import DEFAULT_TEMPLATE
from headword.evaluation.features import Readable
from headword.evaluation.shapes import EncodeImages, EncodeTexts, evaluate_shapes
from headword.evaluation.sources import LabelledImages, open_images
from headword.evaluation.zero_shot import METRIC, check_spoken
from headword.files import expand
from headword.metrics import classification_metrics, retrieval_metrics, retrieval_places
from headword.superclip.config import TrainConfig
from headword.superclip.model import SuperCLIP
from headword.superclip.train import Evaluator
from headword.superclip.trained import encoders_of

BATCH = 64
"""Images that are decoded and encoded together."""

KS = (10, 5, 1)


def training_evaluators(config: TrainConfig) -> dict[str, Evaluator]:
    """The evaluators that a configuration means; none where neither the data nor `eval_data` gives one.

    `shapes` is measured on its validation split, which has the combinations of training: the held-out ones
    are for the end.

    Raises:
        HeadwordError: if `eval_data` is not there, or is of no kind that can be measured on.
    """
    found: dict[str, Evaluator] = {}
    if is_shapes(config.data):
        found["shapes"] = partial(measure_shapes, split="val")
    if config.eval_data is None:
        return found
    path = expand(config.eval_data)
    if path.is_file():
        splits = caption_splits(path)
        split = config.eval_split or next((name for name in ("val", "test") if name in splits), None)
        found["retrieval"] = partial(_retrieval, read_captions(path, split=split))
    else:
        data = open_images(config.eval_data, split=config.eval_split)
        check_spoken(data)
        found["zero_shot"] = partial(_zero_shot, data)
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


def _retrieval(entries: Sequence[Captioned], model: SuperCLIP) -> Mapping[str, float]:
    """Recall@k both ways and what else `retrieval_metrics` gives."""
    encode_images, encode_texts = encoders_of(model)
    images = _images(encode_images, [entry.image for entry in entries])
    captions = [caption for entry in entries for caption in entry.captions]
    owner = torch.tensor([row for row, entry in enumerate(entries) for _ in entry.captions])
    places = retrieval_places(images, _texts(encode_texts, captions), owner)
    ks = [k for k in KS if k < len(entries) or k == 1]
    found = retrieval_metrics(places, ks)
    first = f"t2i_r{max(ks)}"
    return {first: found.pop(first), **found}


def _zero_shot(data: LabelledImages, model: SuperCLIP) -> Mapping[str, float]:
    """Mean per-class and top-k accuracy, each class being the mean of its prompts."""
    encode_images, encode_texts = encoders_of(model)
    images = _images(encode_images, data.images)
    templates = data.templates or (DEFAULT_TEMPLATE,)
    prompts = [template.replace("{}", name) for template in templates for name in data.names]
    words = _texts(encode_texts, prompts).view(len(templates), len(data.names), -1).mean(dim=0)
    ks = [k for k in (1, 5) if k < len(data.names) or k == 1]
    found = classification_metrics(images @ F.normalize(words, dim=1).T, torch.tensor(data.labels), ks)
    return {METRIC: found.pop(METRIC), **found}


def _images(encode: EncodeImages, images: Sequence[Readable]) -> Tensor:
    batches = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
    return _unit(encode([_read(image) for image in batch]) for batch in batches)


def _read(image: Readable) -> Image.Image:
    return load_image(image() if callable(image) else image)


def _texts(encode: EncodeTexts, texts: Sequence[str]) -> Tensor:
    return _unit(encode(list(texts[start : start + BATCH])) for start in range(0, len(texts), BATCH))


def _unit(parts: Iterable[Tensor]) -> Tensor:
    return F.normalize(torch.cat([part.float().cpu() for part in parts]), dim=1)

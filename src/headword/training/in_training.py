"""What a training run is measured on as it goes: generated shapes, captions, or classes by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from headword.data.items import Item
from headword.data.safe_images import load_image
from headword.data.shapes import ATTRIBUTES
from headword.data.splits import WATCHED
from headword.errors import HeadwordError
from headword.evaluation import Protocol
from headword.evaluation.shape_questions import evaluate_shapes
from headword.evaluation.tasks import MEAN_PER_CLASS, Retrieval, ZeroShot
from headword.extract.features import none_read
from headword.files import expand
from headword.metrics import Places, retrieval_metrics
from headword.training.config import TrainConfig
from headword.training.export import dual_encoder
from headword.training.superclip import SuperCLIP
from headword.training.trainer import Evaluator

SHAPES = ("overall", *ATTRIBUTES, "i2t_r1", "t2i_r1")  # what `measure_shapes` measures


def training_evaluators(
    config: TrainConfig, *, say: Callable[[str], None] = lambda _: None
) -> dict[str, Evaluator]:
    """The evaluators of a configuration (on `shapes`' validation split); `say` is told of unread pictures."""
    evaluators: dict[str, Evaluator] = {}
    if is_shapes(config.data):
        evaluators["shapes"] = Evaluator(SHAPES, partial(measure_shapes, split="val"))
    if config.eval_data is None:
        return evaluators
    retrieval = expand(config.eval_data).is_file()
    task: Literal["retrieval", "classification"] = "retrieval" if retrieval else "classification"
    protocol = Protocol(task=task, data=config.eval_data, split=config.eval_split)
    options: dict[str, Any] = {"default": WATCHED, "engine": "torch"}  # none is converted for one evaluation
    if retrieval:
        evaluators["retrieval"] = _retrieval(Retrieval(protocol, **options), say)
    else:
        zero_shot = ZeroShot(protocol, **options)
        names = (MEAN_PER_CLASS, *(f"top{k}" for k in zero_shot.k))
        evaluators["zero_shot"] = _evaluator(zero_shot, names, say)
    return evaluators


def is_shapes(data: str) -> bool:
    """Whether a name of training data means the generated set."""
    return data.partition(":")[0] == "shapes" and not expand(data).exists()


def measure_shapes(model: SuperCLIP, *, split: str) -> dict[str, float]:
    """Fine-grained questions, see `evaluate_shapes`; without what guessing gives."""
    dual, size = dual_encoder(model), model.clip.visual.image_size[0]
    metrics = evaluate_shapes(dual.encode_image, dual.encode_text, split=split, size=size)
    return {name: metrics[name] for name in SHAPES if name in metrics}


def _retrieval(task: Retrieval, say: Callable[[str], None]) -> Evaluator:
    ks = task.top(len(task.images))
    ones, rows = torch.ones(max(ks), dtype=torch.int64), torch.arange(max(ks))
    metrics = retrieval_metrics(Places(caption=ones, image=ones, owner=rows, n_images=max(ks)), ks)
    first = f"t2i_r{max(ks)}"
    return _evaluator(task, (first, *(name for name in metrics if name != first)), say)


def _evaluator(task: Retrieval | ZeroShot, names: tuple[str, ...], say: Callable[[str], None]) -> Evaluator:
    """A task as an evaluator; how many pictures it leaves out is said when that changes."""
    errors: dict[int, str] = {}
    images: Sequence[Path | Item] = task.images
    for place, image in enumerate(images):
        try:
            load_image(image) if isinstance(image, Path) else image.read(None)
            break
        except HeadwordError as error:
            errors[place] = str(error)
    else:
        raise HeadwordError(none_read(errors, len(images)))
    left_out = 0

    def measure(model: SuperCLIP) -> dict[str, float]:
        nonlocal left_out
        outcome = task.measure(dual_encoder(model))
        skipped = outcome.data["skipped"]
        if len(skipped) != left_out:
            left_out = len(skipped)
            first = f"; the first: {skipped[0]}" if skipped else ""
            which = f"{left_out:,} of {len(images):,} pictures of {outcome.data['source']}"
            say(f"{which} cannot be read and are left out of the evaluation{first}")
        return {name: outcome.metrics[name] for name in names if name in outcome.metrics}

    return Evaluator(names, measure)

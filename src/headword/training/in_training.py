"""What a training run is measured on as it goes: generated shapes, captions, or classes by name.

The first metric of the first evaluator says which checkpoint is the best, where `best_metric` names none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from headword.data.captions import Captioned, read_captions
from headword.data.images import load_image
from headword.data.items import Item, LabelledImages
from headword.data.labelled import open_images
from headword.data.shapes import ATTRIBUTES
from headword.data.splits import WATCHED
from headword.encoders import TextEncoder, TextSource, VisionEncoder, VisionSource
from headword.encoders.clip_folder import evaluation_transform
from headword.encoders.prompts import DEFAULT_TEMPLATE
from headword.errors import HeadwordError
from headword.evaluation.shape_questions import evaluate_shapes
from headword.evaluation.tasks import MEAN_PER_CLASS as METRIC
from headword.evaluation.tasks import check_spoken
from headword.extract import Extracted, extract
from headword.extract.features import none_read
from headword.files import expand
from headword.metrics import Places, classification_metrics, retrieval_metrics, retrieval_places
from headword.training.config import TrainConfig
from headword.training.export import encoders_of
from headword.training.superclip import SuperCLIP
from headword.training.trainer import Evaluator

KS = (10, 5, 1)

SHAPES = ("overall", *ATTRIBUTES, "i2t_r1", "t2i_r1")
"""What `measure_shapes` measures."""


def training_evaluators(
    config: TrainConfig, *, say: Callable[[str], None] = lambda _: None
) -> dict[str, Evaluator]:
    """The evaluators that a configuration means; none where neither the data nor `eval_data` gives one.

    `shapes` is measured on its validation split, which has the combinations of training: the held-out ones
    are for the end.

    Args:
        config: all options.
        say: called with a line when pictures of `eval_data` cannot be read, which are left out.

    Raises:
        HeadwordError: if `eval_data` is not there, is of no kind that can be measured on, or none of its
            pictures can be read.
    """
    found: dict[str, Evaluator] = {}
    if is_shapes(config.data):
        found["shapes"] = Evaluator(SHAPES, partial(measure_shapes, split="val"))
    if config.eval_data is None:
        return found
    path = expand(config.eval_data)
    if path.is_file():
        entries = read_captions(path, split=config.eval_split, default=WATCHED)
        found["retrieval"] = _retrieval(entries, _Pictures([entry.image for entry in entries], path, say))
    else:
        data = open_images(config.eval_data, split=config.eval_split, default=WATCHED)
        check_spoken(data)
        found["zero_shot"] = _zero_shot(data, _Pictures(data.images, data.source, say))
    return found


def is_shapes(data: str) -> bool:
    """Whether a name of training data means the generated set."""
    return data.partition(":")[0] == "shapes" and not expand(data).exists()


def measure_shapes(model: SuperCLIP, *, split: str) -> dict[str, float]:
    """Fine-grained questions, see `headword.evaluation.shape_questions`; without what guessing gives."""
    images, texts = encoders_of(model)
    metrics = evaluate_shapes(images, texts, split=split, size=model.clip.visual.image_size[0])
    told = {name: value for name, value in metrics.items() if not name.startswith(("chance", "retrieval"))}
    return {"overall": told.pop("overall"), **told}


@dataclass
class _Pictures:
    """What a model under training is measured on, less what cannot be read."""

    images: Sequence[Path | Item]
    source: object
    say: Callable[[str], None]
    left_out: int = 0
    """How many the last evaluation did without."""

    def __post_init__(self) -> None:
        skipped: dict[int, str] = {}
        for place, image in enumerate(self.images):
            try:
                load_image(image) if isinstance(image, Path) else image.read(None)
                return
            except HeadwordError as error:
                skipped[place] = str(error)
        raise HeadwordError(none_read(skipped, len(self.images)))

    def features(self, vision: VisionEncoder) -> Extracted:
        """Their features; how many are left out is said when it changes."""
        found = extract(vision, self.images, engine="torch", cache=False)
        if len(found.errors) != self.left_out:
            self.left_out = len(found.errors)
            first = f"; the first: {next(iter(found.errors.values()))}" if found.errors else ""
            self.say(
                f"{self.left_out:,} of {len(self.images):,} pictures of {self.source} cannot be read and are "
                f"left out of the evaluation{first}"
            )
        return found


def _encoders(model: SuperCLIP) -> tuple[VisionEncoder, TextEncoder]:
    """The two sides of a model that is trained, in evaluation mode; nothing of it is copied or changed."""
    device = model.clip.logit_scale.device

    def read(batch: Tensor) -> tuple[Tensor, Tensor]:
        embedded = model.encode_image(batch)
        return embedded, embedded

    def embed(texts: list[str]) -> Tensor:
        return model.encode_text(model.tokenize(texts).ids.to(device))

    with torch.inference_mode():
        dim = embed(["a photo"]).shape[1]
    source = VisionSource(
        kind="module",
        id="the model",
        model=model,
        transform=evaluation_transform(model.clip.visual.preprocess_cfg),
        transform_settings={},
        input_size=model.clip.visual.image_size,
        tower=True,
    )
    vision = VisionEncoder(source=source, head=None, labels=None, device=device, dtype=torch.float32, dim=dim)
    vision.reader = read
    words = TextSource(kind="module", id="the model", model=model, embed=embed)
    return vision, TextEncoder(words, device, dim)


def _retrieval(entries: Sequence[Captioned], pictures: _Pictures) -> Evaluator:
    """Recall@k both ways and what else `retrieval_metrics` gives."""
    ks = [k for k in KS if k < len(entries) or k == 1]

    def score(places: Places) -> dict[str, float]:
        metrics = retrieval_metrics(places, [k for k in ks if k <= places.n_images])
        return dict(sorted(metrics.items(), key=lambda metric: metric[0] != f"t2i_r{max(ks)}"))

    def measure(model: SuperCLIP) -> dict[str, float]:
        vision, text = _encoders(model)
        found = pictures.features(vision)
        kept = [entries[place] for place in found.kept]
        captions = [caption for entry in kept for caption in entry.captions]
        owner = torch.tensor([row for row, entry in enumerate(kept) for _ in entry.captions])
        words = F.normalize(text.encode(captions, cache=False), dim=1)
        return score(retrieval_places(F.normalize(found.features, dim=1), words, owner))

    ones, rows = torch.ones(max(ks), dtype=torch.int64), torch.arange(max(ks))
    return Evaluator(tuple(score(Places(caption=ones, image=ones, owner=rows, n_images=max(ks)))), measure)


def _zero_shot(data: LabelledImages, pictures: _Pictures) -> Evaluator:
    """Mean per-class and top-k accuracy, each class being the mean of its prompts."""
    templates = data.templates or (DEFAULT_TEMPLATE,)
    prompts = [template.replace("{}", name) for template in templates for name in data.names]
    ks = [k for k in (1, 5) if k < len(data.names) or k == 1]

    def score(cosines: Tensor, labels: Tensor) -> dict[str, float]:
        metrics = classification_metrics(cosines, labels, ks)
        return {METRIC: metrics.pop(METRIC), **metrics}

    def measure(model: SuperCLIP) -> dict[str, float]:
        vision, text = _encoders(model)
        found = pictures.features(vision)
        said = F.normalize(text.encode(prompts, cache=False), dim=1)
        words = F.normalize(said.view(len(templates), len(data.names), -1).mean(dim=0), dim=1)
        labels = torch.tensor(data.labels)[list(found.kept)]
        return score(F.normalize(found.features, dim=1) @ words.T, labels)

    return Evaluator(tuple(score(torch.zeros(1, len(data.names)), torch.tensor([0]))), measure)

"""The models that protocols measure: opened by name, with another centre, with another mapping."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from headword.aligners import ALIGNERS, Identity, make_aligner
from headword.aligners.pairs import Pairs
from headword.encoders import TextEncoder, TextSource, VisionEncoder, VisionSource, load_text, load_vision
from headword.encoders.clip_folder import open_clip_model, text_source, vision_source
from headword.encoders.hub import check_folder, find, loading
from headword.encoders.vision import Vision, transformed_size
from headword.encoders.vision_sources import processed
from headword.errors import HeadwordError
from headword.files import expand
from headword.model import DualEncoder, load
from headword.scoring.calibration import Scores
from headword.scoring.centring import Centre

CLIP_TEMPLATES = ("a photo of a {}",)  # what CLIP models are usually prompted with
CLIP_SCALE = 100.0  # what CLIP's learnt scale is bounded by: that of a model that does not say
THRESHOLD = 0.2  # the cosine at which a single label is taken for right, where nothing has taught one


def open_model(
    name: str | os.PathLike[str], *, vision: Vision | None = None, device: str = "auto", dtype: str = "auto"
) -> DualEncoder:
    """A model to evaluate, by name.

    A saved model's folder, with `vision` as in `headword.load`; "embedded", recycled on the spot; or a CLIP
    model as the reference, read in float32: "open_clip:ARCHITECTURE/TAG",
    "open_clip:ARCHITECTURE/CHECKPOINT", "open_clip:hf-hub:ID", "open_clip:local-dir:FOLDER" or
    "transformers:ID_OR_FOLDER", perhaps with @REVISION.
    """
    name = os.fspath(name)
    if expand(name).is_dir():
        return load(name, vision=vision, device=device, dtype=None if dtype == "auto" else dtype)
    if vision is not None:
        raise HeadwordError(f"{name} is no saved model's folder, which --vision goes with")
    if name.startswith(("open_clip:", "transformers:")):
        kind, _, rest = name.partition(":")
        image, words, scale = _open_clip(rest) if kind == "open_clip" else _transformers(rest)
        clip, text = load_vision(image, device=device, dtype="float32"), load_text(words, device=device)
        return one_space(clip, text, Scores(scale, scale, THRESHOLD), CLIP_TEMPLATES)
    if name.partition(":")[0] == "embedded":
        from headword.recycling import recycle

        return recycle(name, device=device, dtype=dtype)
    raise HeadwordError(
        f"there is no model {name!r}: give a saved model's folder, embedded, open_clip:ARCHITECTURE/TAG or "
        "transformers:ID"
    )


def one_space(
    vision: VisionEncoder, text: TextEncoder, scores: Scores, templates: tuple[str, ...],
    training: dict[str, Any] | None = None,
) -> DualEncoder:  # fmt: skip
    """A model of two encoders that were trained in one space, and how if headword trained them."""
    return DualEncoder(
        vision=vision, text=text, aligner=Identity.of(vision.dim).to(vision.device), pairs=None,
        templates=templates, scores=scores, centre=Centre("default"), training=training,
    )  # fmt: skip


def _open_clip(name: str) -> tuple[VisionSource, TextSource, float]:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    clip = open_clip_model(name)
    transform = image_transform_v2(PreprocessCfg(**clip.model.visual.preprocess_cfg), is_train=False)
    settings = {"transform": " ".join(str(transform).split())}
    image = vision_source("open_clip", clip, transform, settings)
    return image, text_source("open_clip", clip), _scale(clip.model)


def _transformers(id: str) -> tuple[VisionSource, TextSource, float]:
    from transformers import AutoModel, AutoProcessor

    place = find("transformers", id, "a CLIP model")
    with loading(place.id, local=True):
        check_folder(place.folder)
        model = AutoModel.from_pretrained(place.folder, trust_remote_code=False)
        if not hasattr(model, "get_image_features"):
            raise HeadwordError(
                f"transformers:{id} is a {type(model).__name__}: no model of images and texts"
            )
        processor = AutoProcessor.from_pretrained(place.folder, trust_remote_code=False)

    def embed(texts: list[str]) -> Tensor:
        tokens = processor.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        return _pooled(model.get_text_features(**tokens.to(model.device)))

    transform = partial(processed, processor.image_processor)
    settings = json.loads(processor.image_processor.to_json_string())
    common: dict[str, Any] = {"kind": "transformers", "id": place.id, "revision": place.revision}
    image = VisionSource(
        model=_ImageTower(model), transform=transform, input_size=transformed_size(transform), tower=True,
        transform_settings={"library": "transformers", **settings}, **common,
    )  # fmt: skip
    return image, TextSource(model=model, embed=embed, **common), _scale(model)


class _ImageTower(nn.Module):
    """The image side of a transformers model of images and texts."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Tensor) -> Tensor:
        return _pooled(self.model.get_image_features(pixel_values=batch))


def _pooled(output: Any) -> Tensor:
    """transformers 5 gives an object where 4 gave the tensor."""
    embedded: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return embedded


def _scale(model: nn.Module) -> float:
    learnt = getattr(model, "logit_scale", None)
    return float(learnt.detach().exp()) if isinstance(learnt, torch.Tensor) else CLIP_SCALE


def is_reference(model: DualEncoder) -> bool:
    """Whether it is somebody's CLIP, whose sides were trained against each other: it is never centred."""
    return model.one_space and model.training is None


def recentred(model: DualEncoder, features: Tensor, source: str, strength: float = 0.0) -> DualEncoder:
    """A copy centred on a pool `[N, d]`, the old centre counting as `strength` images; no reference is."""
    if is_reference(model):
        return model
    aligner = model.aligner.centred_on(features.to(model.aligner.centre_.device), strength)
    return replace(model, aligner=aligner, centre=Centre("pool", len(features), source))


def refitted(model: DualEncoder, *, aligner: str | None = None, more: Pairs | None = None) -> DualEncoder:
    """A copy fitted on the pairs and `more`, by its own aligner or another in default settings."""
    if model.pairs is None:
        raise HeadwordError(
            "the model was trained in one space: it has no mapping to exchange or to fit on further pairs; "
            "give a recycled model"
        )
    device = model.aligner.centre_.device
    pairs = model.pairs.to(device=device)
    if more is not None:
        pairs = pairs + more.to(device=device)
    own = model.aligner
    unfitted = make_aligner(own.name, **own.settings) if aligner is None else make_aligner(aligner)
    return replace(model, aligner=unfitted.fit(pairs), pairs=pairs, centre=Centre("default"))


def check_aligners(names: Sequence[str]) -> None:
    """Refuse no aligner, one that does not exist, and one twice."""
    known = ", ".join(ALIGNERS)
    if not names or len(set(names)) != len(names):
        raise HeadwordError(f"name each aligner once; there are {known}")
    if unknown := [name for name in names if name not in ALIGNERS]:
        raise HeadwordError(f"there is no aligner {unknown[0]!r}; the aligners are {known}")


def arrival(n: int, seed: int) -> Tensor:
    """`[n]` the order in which n images arrive: drawn, since sets list their images class by class."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))

"""CLIP models as the reference line: trained on pairs, so that no mapping is needed."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn

from headword.aligners import Identity
from headword.encoders import TextSource, VisionSource, load_text, load_vision
from headword.encoders.clip_folder import open_clip_model, text_source, vision_source
from headword.encoders.hub import check_folder, find, loading
from headword.encoders.vision import transformed_size
from headword.encoders.vision_sources import processor_transform
from headword.errors import HeadwordError
from headword.model import DualEncoder
from headword.scoring.centring import Centre
from headword.scoring.probabilities import Scores

TEMPLATES = ("a photo of a {}",)
"""What CLIP models are usually prompted with."""

SCALE = 100.0
"""What CLIP's learnt scale is bounded by: that of a model that does not say."""

THRESHOLD = 0.2
"""The cosine at which a single label is taken for right: nothing has taught one."""


def open_reference(name: str, *, device: str = "auto") -> DualEncoder:
    """A CLIP model.

    Args:
        name: "open_clip:ARCHITECTURE/TAG", "open_clip:ARCHITECTURE/CHECKPOINT", "open_clip:hf-hub:ID",
            "open_clip:local-dir:FOLDER", or "transformers:ID_OR_FOLDER", an ID perhaps with @REVISION.
        device: "auto", "cpu", "cuda" or "mps".

    Raises:
        HeadwordError: if it cannot be had or has no two towers.
    """
    kind, _, rest = name.partition(":")
    image, words, scale = _open_clip(rest) if kind == "open_clip" else _transformers(name, rest)
    vision, text = load_vision(image, device=device, dtype="float32"), load_text(words, device=device)
    return DualEncoder(
        vision=vision,
        text=text,
        aligner=Identity.of(vision.dim).to(vision.device),
        pairs=None,
        templates=TEMPLATES,
        scores=Scores(scale, scale, THRESHOLD),
        centre=Centre("default"),
    )


def _open_clip(name: str) -> tuple[VisionSource, TextSource, float]:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    clip = open_clip_model(name)
    transform = image_transform_v2(PreprocessCfg(**clip.model.visual.preprocess_cfg), is_train=False)
    settings = {"transform": " ".join(str(transform).split())}
    image = vision_source("open_clip", clip, transform, settings)
    return image, text_source("open_clip", clip), _scale(clip.model)


def _transformers(name: str, id: str) -> tuple[VisionSource, TextSource, float]:
    from transformers import AutoModel, AutoProcessor

    place = find("transformers", id, "a CLIP model")
    with loading(place.id, local=True):
        check_folder(place.folder)
        model = AutoModel.from_pretrained(place.folder, trust_remote_code=False)
        if not hasattr(model, "get_image_features"):
            raise HeadwordError(f"{name} is a {type(model).__name__}: no model of images and texts")
        processor = AutoProcessor.from_pretrained(place.folder, trust_remote_code=False)

    def embed(texts: list[str]) -> Tensor:
        tokens = processor.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        return _pooled(model.get_text_features(**tokens.to(model.device)))

    transform = processor_transform(processor.image_processor)
    settings = json.loads(processor.image_processor.to_json_string())
    image = VisionSource(
        kind="transformers",
        id=place.id,
        model=_ImageTower(model),
        transform=transform,
        transform_settings={"library": "transformers", **settings},
        input_size=transformed_size(transform),
        tower=True,
        revision=place.revision,
    )
    words = TextSource(kind="transformers", id=place.id, model=model, embed=embed, revision=place.revision)
    return image, words, _scale(model)


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
    return float(learnt.detach().exp()) if isinstance(learnt, torch.Tensor) else SCALE

"""CLIP models as the reference line: trained on pairs, so that no mapping is needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from headword.aligners.pairs import Pairs
from headword.encoders import TextEncoder, TextSource, VisionEncoder, VisionSource, load_text, load_vision
from headword.encoders.clip_folder import open_clip_model, text_source
from headword.encoders.hub import check_folder, find, loading
from headword.errors import HeadwordError


@dataclass(slots=True, kw_only=True)
class Reference:
    """An open_clip or transformers CLIP model under evaluation; see `open_reference`."""

    name: str
    vision: VisionEncoder
    text: TextEncoder
    scale: float
    """The learnt one; 100, which CLIP's is bounded by, where the model does not say."""

    @property
    def templates(self) -> tuple[str, ...]:
        """What CLIP models are usually prompted with."""
        return ("a photo of a {}",)

    @property
    def hypernym_weight(self) -> float:
        """None: CLIP models read labels as they are."""
        return 0.0

    def image_embeds(self, features: Tensor) -> Tensor:
        """The features, normalised."""
        return F.normalize(features, dim=1)

    def text_embeds(self, features: Tensor) -> Tensor:
        """The features, normalised."""
        return F.normalize(features, dim=1)

    def centred_on(self, features: Tensor, source: str, strength: float = 0.0) -> Reference:  # noqa: ARG002
        """Itself: a CLIP model's two sides are trained against each other as they are."""
        return self

    def online(self, seed: int) -> Reference:  # noqa: ARG002 - the interface's
        """Itself, likewise."""
        return self

    def with_pairs(self, pairs: Pairs) -> Reference:  # noqa: ARG002 - the interface's
        """Refused: there is no mapping to fit.

        Raises:
            HeadwordError: always.
        """
        raise HeadwordError(f"{self.name} has no mapping that pairs could be added to; use the task probe")

    def provenance(self) -> dict[str, Any]:
        """The model's name, weights and transform; it is never centred."""
        return {
            "reference": self.name,
            "revision": self.vision.source.revision,
            "weights_sha256": self.vision.fingerprint,
            "text_weights_sha256": self.text.fingerprint,
            "transform": self.vision.source.transform_settings,
            "templates": list(self.templates),
            "centre": {"kind": "default", "images": 0, "source": None},
        }


def open_reference(name: str, *, device: str = "auto") -> Reference:
    """A CLIP model.

    Args:
        name: "open_clip:ARCHITECTURE/TAG", "open_clip:ARCHITECTURE/CHECKPOINT", "open_clip:hf-hub:ID",
            "open_clip:local-dir:FOLDER", or "transformers:ID_OR_FOLDER", an ID perhaps with @REVISION.
        device: "auto", "cpu", "cuda" or "mps".

    Raises:
        HeadwordError: if it cannot be had or has no two towers.
    """
    kind, _, rest = name.partition(":")
    vision, text, scale = _open_clip(rest) if kind == "open_clip" else _transformers(name, rest)
    return Reference(
        name=name,
        vision=load_vision(vision, device=device, dtype="float32"),
        text=load_text(text, device=device),
        scale=float(scale.exp()) if isinstance(scale, Tensor) else 100.0,
    )


def _open_clip(rest: str) -> tuple[VisionSource, TextSource, Tensor | None]:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    clip = open_clip_model(rest)
    visual = clip.model.visual
    if getattr(visual, "output_tokens", False):
        visual.output_tokens = False  # CoCa's gives its tokens beside the embedding
    transform = image_transform_v2(PreprocessCfg(**visual.preprocess_cfg), is_train=False)
    settings = {"library": "open_clip", "transform": " ".join(str(transform).split())}
    vision = _tower("open_clip", clip.id, visual, transform, settings, clip.revision)
    return vision, text_source("open_clip", clip), getattr(clip.model, "logit_scale", None)


def _transformers(name: str, rest: str) -> tuple[VisionSource, TextSource, Tensor | None]:
    from transformers import AutoModel, AutoProcessor

    place = find("transformers", rest, "a CLIP model")
    with loading(place.id, local=True):
        check_folder(place.folder)
        model = AutoModel.from_pretrained(place.folder, trust_remote_code=False)
        if not hasattr(model, "get_image_features"):
            raise HeadwordError(f"{name} is a {type(model).__name__}: no model of images and texts")
        processor = AutoProcessor.from_pretrained(place.folder, trust_remote_code=False)

    def transform(image: Image.Image) -> Tensor:
        pixels: Tensor = processor.image_processor(image, return_tensors="pt")["pixel_values"][0]
        return pixels

    def embed(texts: list[str]) -> Tensor:
        tokens = processor.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        return _pooled(model.get_text_features(**tokens.to(model.device)))

    settings = json.loads(processor.image_processor.to_json_string())
    vision = _tower("transformers", place.id, _ImageTower(model), transform, settings, place.revision)
    text = TextSource(kind="transformers", id=place.id, model=model, embed=embed, revision=place.revision)
    return vision, text, getattr(model, "logit_scale", None)


def _tower(
    kind: str,
    id: str,
    model: nn.Module,
    transform: Callable[[Image.Image], Tensor],
    settings: dict[str, Any],
    revision: str | None,
) -> VisionSource:
    height, width = transform(Image.new("RGB", (64, 64))).shape[1:]
    return VisionSource(
        kind=kind,
        id=id,
        model=model,
        transform=transform,
        transform_settings=settings,
        input_size=(height, width),
        tower=True,
        revision=revision,
    )


class _ImageTower(nn.Module):
    """The image side of a transformers model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def forward(self, pixels: Tensor) -> Tensor:
        """`[N, 3, H, W]` → `[N, D]`."""
        return _pooled(self.model.get_image_features(pixel_values=pixels))


def _pooled(output: Any) -> Tensor:
    """transformers 5 gives an object where 4 gave the tensor."""
    embedded: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return embedded

"""CLIP models as the reference line: trained on pairs, so that no mapping is needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import cpu_count
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from headword.aligners.pairs import Pairs
from headword.data.images import ImageSource, load_image, name_of, transformed
from headword.encoders.base import fingerprint, resolve_device
from headword.encoders.clip_folder import open_clip_model
from headword.encoders.hub import check_folder, find, loading
from headword.errors import HeadwordError
from headword.extract import Progress
from headword.extract.features import none_read

BATCH = 32


@dataclass(slots=True, kw_only=True)
class Reference:
    """An open_clip or transformers CLIP model under evaluation; see `open_reference`."""

    name: str
    revision: str | None
    """The commit, of a repository on the hub."""
    model: nn.Module
    transform: Callable[[Image.Image], Tensor]
    embed_images: Callable[[Tensor], Tensor]
    """`[N, 3, H, W]` → `[N, D]`, on the model's device."""
    embed_texts: Callable[[list[str]], Tensor]
    transform_settings: str
    device: torch.device
    _fingerprint: str = ""

    @property
    def templates(self) -> tuple[str, ...]:
        """What CLIP models are usually prompted with."""
        return ("a photo of a {}",)

    @property
    def kinds(self) -> float:
        """None: CLIP models read labels as they are."""
        return 0.0

    @property
    def image_key(self) -> str:
        """Of weights and transform."""
        said = json.dumps([self._weights(), self.transform_settings, self.device.type])
        return hashlib.sha256(said.encode()).hexdigest()

    @property
    def text_key(self) -> str:
        """Of the weights; the tokenizer goes with the name."""
        return hashlib.sha256(f"{self.name} {self._weights()} {self.device.type}".encode()).hexdigest()

    @torch.inference_mode()
    def image_features(
        self, images: Sequence[ImageSource], *, skipped: dict[int, str], progress: Progress | None = None
    ) -> Tensor:
        """Image embeddings, in batches that are decoded in threads."""

        def read(source: ImageSource) -> Tensor | HeadwordError:
            try:
                return transformed(self.transform, load_image(source), name_of(source))
            except HeadwordError as error:
                return error

        parts = []
        with ThreadPoolExecutor(min(8, cpu_count() or 1)) as pool:
            for start in range(0, len(images), BATCH):
                outcomes = list(pool.map(read, images[start : start + BATCH]))
                skipped |= {
                    start + n: str(one) for n, one in enumerate(outcomes) if isinstance(one, HeadwordError)
                }
                batch = [outcome for outcome in outcomes if isinstance(outcome, Tensor)]
                if batch:
                    parts.append(self.embed_images(torch.stack(batch).to(self.device)).float().cpu())
                if progress is not None:
                    progress(start + len(outcomes), len(images))
        if not parts:
            raise HeadwordError(none_read(skipped, len(images)))
        return torch.cat(parts)

    @torch.inference_mode()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Text embeddings."""
        return torch.cat(
            [
                self.embed_texts(list(texts[start : start + BATCH])).float().cpu()
                for start in range(0, len(texts), BATCH)
            ]
        )

    def image_embeds(self, features: Tensor) -> Tensor:
        """The features, normalised."""
        return F.normalize(features, dim=1)

    def text_embeds(self, features: Tensor) -> Tensor:
        """The features, normalised."""
        return F.normalize(features, dim=1)

    @property
    def scale(self) -> float:
        """The learnt one; 100, which CLIP's is bounded by, where the model does not say."""
        learnt = getattr(self.model, "logit_scale", None)
        return float(learnt.exp()) if isinstance(learnt, Tensor) else 100.0

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
            "revision": self.revision,
            "weights_sha256": self._weights(),
            "transform": self.transform_settings,
            "template": list(self.templates),
            "centre": {"kind": "default", "images": 0, "source": None},
        }

    def _weights(self) -> str:
        if not self._fingerprint:
            self._fingerprint = fingerprint(self.model)
        return self._fingerprint


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
    where = resolve_device(device)
    opened = _open_clip(name, rest, where) if kind == "open_clip" else _transformers(name, rest, where)
    opened.model.eval().requires_grad_(False).to(where)
    return opened


def _open_clip(name: str, rest: str, device: torch.device) -> Reference:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    clip = open_clip_model(rest)
    model, tokenizer = clip.model, clip.tokenizer
    transform = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)

    def embed_texts(texts: list[str]) -> Tensor:
        embedded: Tensor = model.encode_text(tokenizer(texts).to(device))
        return embedded

    return Reference(
        name=name,
        revision=clip.revision,
        model=model,
        transform=transform,
        embed_images=model.encode_image,
        embed_texts=embed_texts,
        transform_settings=" ".join(str(transform).split()),
        device=device,
    )


def _transformers(name: str, rest: str, device: torch.device) -> Reference:
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

    def embed_images(batch: Tensor) -> Tensor:
        return _pooled(model.get_image_features(pixel_values=batch))

    def embed_texts(texts: list[str]) -> Tensor:
        tokens = processor.tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(device)
        return _pooled(model.get_text_features(**tokens))

    return Reference(
        name=name,
        revision=place.revision,
        model=model,
        transform=transform,
        embed_images=embed_images,
        embed_texts=embed_texts,
        transform_settings=json.dumps(json.loads(processor.image_processor.to_json_string())),
        device=device,
    )


def _pooled(output: Any) -> Tensor:
    """transformers 5 gives an object where 4 gave the tensor."""
    embedded: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return embedded

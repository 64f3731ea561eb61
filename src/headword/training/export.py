"""A trained model as a dual encoder: labels, searches, is measured, saved and loaded as any other."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headword.encoders import TextEncoder, TextSource, VisionEncoder, VisionSource, load_text, load_vision
from headword.encoders.clip_folder import CONFIG, COPY, TOKEN_HEAD, WEIGHTS, evaluation_transform
from headword.encoders.patch_tokens import evaluating
from headword.encoders.prompts import DEFAULT_TEMPLATE, check_templates
from headword.encoders.token_head import COUNTS
from headword.errors import HeadwordError
from headword.evaluation.subjects import THRESHOLD, one_space
from headword.files import check_new_folder, load_tensors, save_tensors, write_text_atomic
from headword.model import DualEncoder
from headword.scoring.calibration import Scores
from headword.training import checkpoint
from headword.training.build import Blueprint
from headword.training.superclip import SuperCLIP


def save_trained(
    model: SuperCLIP,
    blueprint: Blueprint,
    folder: str | os.PathLike[str],
    *,
    provenance: Mapping[str, Any],
    templates: str | Sequence[str] = DEFAULT_TEMPLATE,
    keep_token_head: bool = False,
    token_counts: Tensor | None = None,
    overwrite: bool = False,
) -> Path:
    """Save a trained model as a folder that `headword.load` reads, its token head only where asked for.

    The folder's `clip/` is open_clip's own layout: `open_clip.create_model("local-dir:FOLDER/clip")`.
    `provenance` says what it was trained on and how; `templates` are the default of its `classify`. The head
    lies in `token_head.safetensors`, with `token_counts` `[V]`, how many captions had each token.
    """
    target = Path(folder)
    templates = check_templates(templates)
    check_new_folder(target, overwrite=overwrite)
    with tempfile.TemporaryDirectory(prefix="headword-") as temporary:
        clip = Path(temporary) / COPY
        write_text_atomic(clip / CONFIG, json.dumps(blueprint.as_json(), indent=2) + "\n")
        save_tensors(clip / WEIGHTS, model.export())
        if keep_token_head:
            tensors = {name: t.detach().clone() for name, t in model.token_head.state_dict().items()}
            counts = {} if token_counts is None else {COUNTS: token_counts.cpu()}
            save_tensors(clip.with_name(TOKEN_HEAD), tensors | counts)
        if hasattr(model.tokenizer, "save_pretrained"):  # all but CLIP's own, which is part of open_clip
            model.tokenizer.save_pretrained(str(clip))
        vision = load_vision(f"trained:{clip}", device="cpu")
        text = load_text(f"trained:{clip}", device="cpu")
        vision.source.id = text.source.id = _architecture(blueprint)  # its place is the saved model itself
        training = json.loads(json.dumps(dict(provenance)))
        encoder = one_space(vision, text, scores_of(model), templates, training)
        return encoder.save(target, overwrite=overwrite)


def export_checkpoint(
    source: Path, folder: str | Path, *, keep_token_head: bool = False, overwrite: bool = False
) -> dict[str, Any]:
    """Save a checkpoint's model as `save_trained` does at the end of a run; returns its provenance."""
    check_new_folder(folder, overwrite=overwrite)
    state = checkpoint.read_state(source)
    if keep_token_head and state["config"]["method"] == "clip":
        raise HeadwordError(f"{source} was trained without a token head; leave out --keep-token-head")
    blueprint = checkpoint.blueprint_of(source)
    tensors = load_tensors(source / checkpoint.MODEL)
    model = blueprint.filled(tensors)
    provenance = {
        "config": state["config"],
        "steps": state["step"],
        "data_fingerprint": state["data_fingerprint"],
        "metrics": state["metrics"] if state.get("evaluated") == state["step"] else {},
    }
    save_trained(
        model, blueprint, folder, provenance=provenance, keep_token_head=keep_token_head,
        token_counts=tensors.get(f"loss.token_loss.{COUNTS}"), overwrite=overwrite,
    )  # fmt: skip
    return provenance


def dual_encoder(model: SuperCLIP) -> DualEncoder:
    """A model under training as a dual encoder: nothing is copied, and modules stay in their own mode."""
    device, tokenizer = next(model.parameters()).device, model.needed_tokenizer()

    def embed_images(batch: Tensor) -> tuple[Tensor, Tensor]:
        with evaluating(model), torch.no_grad():
            embedded = model.encode_image(batch)
        return embedded, embedded

    def embed_texts(texts: list[str]) -> Tensor:
        with evaluating(model), torch.no_grad():
            return model.encode_text(tokenizer(texts).to(device))

    dim = embed_texts([""]).shape[1]
    visual = model.clip.visual
    image = VisionSource(
        kind="module", id="the model", model=model, transform=evaluation_transform(visual.preprocess_cfg),
        transform_settings={}, input_size=visual.image_size, tower=True,
    )  # fmt: skip
    vision = VisionEncoder(source=image, head=None, labels=None, device=device, dtype=torch.float32, dim=dim)
    vision.reader = embed_images
    words = TextSource(kind="module", id="the model", model=model, embed=embed_texts)
    return one_space(vision, _PassingText(words, device, dim), scores_of(model), (DEFAULT_TEMPLATE,), {})


class _PassingText(TextEncoder):
    """A text encoder whose embeddings are not kept, since the next step has others."""

    def encode(self, texts: Sequence[str], **options: Any) -> Tensor:
        return TextEncoder.encode(self, texts, **{**options, "cache": False})


def scores_of(model: SuperCLIP) -> Scores:
    """As in training: softmax of exp(logit scale) · cosine; with a bias, sigmoid of scale · cosine + bias."""
    scale = float(model.clip.logit_scale.detach().exp())
    bias = model.clip.logit_bias
    return Scores(scale, scale, THRESHOLD if bias is None else -float(bias.detach()) / scale)


def _architecture(blueprint: Blueprint) -> str:
    """A short name for both towers: "vit-128x4-patch8", "tf_efficientnet_lite0"."""
    vision = blueprint.model_cfg["vision_cfg"]
    if vision.get("timm_model_name"):
        return str(vision["timm_model_name"])
    layers = vision.get("layers", 12)
    if isinstance(layers, int):
        return f"vit-{vision.get('width', 768)}x{layers}-patch{vision.get('patch_size', 16)}"
    return f"resnet-{vision.get('width', 64)}x{sum(layers)}"

"""A trained model as a dual encoder: labels, searches, is measured, saved and loaded as any other."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from headword.aligners import Identity
from headword.data.images import name_of, transformed
from headword.encoders import load_text, load_vision
from headword.encoders.clip_folder import CONFIG, COPY, WEIGHTS, evaluation_transform
from headword.encoders.prompts import DEFAULT_TEMPLATE, check_templates
from headword.files import check_new_folder, load_tensors, save_tensors, write_text_atomic
from headword.model import DualEncoder
from headword.scoring.centring import Centre
from headword.scoring.probabilities import Scores
from headword.training import checkpoint
from headword.training.build import Blueprint
from headword.training.superclip import SuperCLIP
from headword.training.towers import evaluating

THRESHOLD = 0.2
"""The cosine at which a single label is taken for right, where training has not taught one."""


def save_trained(
    model: SuperCLIP,
    blueprint: Blueprint,
    folder: str | os.PathLike[str],
    *,
    provenance: Mapping[str, Any],
    templates: str | Sequence[str] = DEFAULT_TEMPLATE,
    overwrite: bool = False,
) -> Path:
    """Save a trained model, without its token head, as a folder that `headword.load` reads.

    The folder's `clip/` is open_clip's own layout: `open_clip.create_model("local-dir:FOLDER/clip")`.

    Args:
        model: on any device; it is left as it is.
        blueprint: its architecture and preprocessing.
        folder: must not hold anything yet, unless `overwrite` and it is a saved model.
        provenance: what it was trained on and how, as JSON.
        templates: the default of the model's `classify`.
        overwrite: replace a saved model that is there.

    Raises:
        HeadwordError: if the folder cannot be written; nothing is left half-written.
    """
    target = Path(folder)
    templates = check_templates(templates)
    check_new_folder(target, overwrite=overwrite)
    with tempfile.TemporaryDirectory(prefix="headword-") as temporary:
        clip = Path(temporary) / COPY
        write_open_clip(model, blueprint, clip)
        vision = load_vision(f"trained:{clip}", device="cpu")
        text = load_text(f"trained:{clip}", device="cpu")
        name = architecture(blueprint)
        vision.source.id, text.source.id = name, name  # its place is the saved model itself
        encoder = DualEncoder(
            vision=vision,
            text=text,
            aligner=Identity.of(vision.dim),
            pairs=None,
            templates=templates,
            scores=scores_of(model),
            centre=Centre("default"),
            timings={},
            training=json.loads(json.dumps(dict(provenance))),
        )
        return encoder.save(target, overwrite=overwrite)


def export_checkpoint(source: Path, folder: str | Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Save a checkpoint's model as `save_trained` does at the end of a run; returns its provenance.

    Args:
        source: the checkpoint's folder, in its run's.
        folder: as for `save_trained`.
        overwrite: likewise.

    Raises:
        HeadwordError: if the checkpoint is damaged or lies outside its run, or the folder cannot be written.
    """
    check_new_folder(folder, overwrite=overwrite)
    state = checkpoint.read_state(source)
    blueprint = checkpoint.blueprint_of(source)
    model = blueprint.filled(load_tensors(source / checkpoint.MODEL))
    provenance = {
        "config": state["config"],
        "steps": state["step"],
        "data_fingerprint": state["data_fingerprint"],
        "metrics": state["metrics"] if state.get("evaluated") == state["step"] else {},
    }
    save_trained(model, blueprint, folder, provenance=provenance, overwrite=overwrite)
    return provenance


def write_open_clip(model: SuperCLIP, blueprint: Blueprint, folder: Path) -> None:
    """The wrapped model as open_clip's "local-dir" folder: configuration, weights, tokenizer."""
    write_text_atomic(folder / CONFIG, json.dumps(blueprint.as_json(), indent=2) + "\n")
    save_tensors(folder / WEIGHTS, model.export())
    if hasattr(model.tokenizer, "save_pretrained"):  # all but CLIP's own, which is part of open_clip
        model.tokenizer.save_pretrained(str(folder))


def architecture(blueprint: Blueprint) -> str:
    """A short name for both towers: "vit-128x4-patch8", "tf_efficientnet_lite0"."""
    vision = blueprint.model_cfg["vision_cfg"]
    if vision.get("timm_model_name"):
        return str(vision["timm_model_name"])
    layers = vision.get("layers", 12)
    if isinstance(layers, int):
        return f"vit-{vision.get('width', 768)}x{layers}-patch{vision.get('patch_size', 16)}"
    return f"resnet-{vision.get('width', 64)}x{sum(layers)}"


def scores_of(model: SuperCLIP) -> Scores:
    """Probabilities as in training: softmax of exp(logit scale) · cosine; with a logit bias (SigLIP), also
    sigmoid of scale · cosine + bias. Without one, the threshold is `THRESHOLD`.
    """
    scale = float(model.clip.logit_scale.detach().exp())
    if model.clip.logit_bias is None:
        return Scores(scale, scale, THRESHOLD)
    return Scores(scale, scale, -float(model.clip.logit_bias.detach()) / scale)


def encoders_of(
    model: SuperCLIP,
) -> tuple[Callable[[list[Image.Image]], Tensor], Callable[[list[str]], Tensor]]:
    """Functions from N RGB images, and from N texts, to embeddings `[N, D]`, for evaluation in the loop.

    The images go through the evaluation transform. The model runs in evaluation mode, without gradients, and
    each module is in its own mode again after a call.
    """
    transform = evaluation_transform(model.clip.visual.preprocess_cfg)

    def images(pictures: list[Image.Image]) -> Tensor:
        batch = torch.stack([transformed(transform, picture, name_of(picture)) for picture in pictures])
        with evaluating(model), torch.no_grad():
            return model.encode_image(batch.to(_device(model)))

    def texts(captions: list[str]) -> Tensor:
        ids = model.tokenize(captions).ids.to(_device(model))
        with evaluating(model), torch.no_grad():
            return model.encode_text(ids)

    return images, texts


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device

"""A run's model: towers from scratch, an open_clip checkpoint, or a trained classifier's backbone."""

from __future__ import annotations

import copy
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from headword.encoders.clip_config import check_clip_config
from headword.encoders.clip_folder import tokenizer_of
from headword.errors import HeadwordError, near
from headword.files import MARKER, expand
from headword.training.config import TrainConfig
from headword.training.objective import freeze_unreached, make_task
from headword.training.superclip import SuperCLIP

CONFIG = "open_clip_config.json"
"""The file by which open_clip knows a model's folder."""

OWN = "model."
"""How names of the model's tensors begin in a task's state."""

SMALL_SIZE, SMALL_CONTEXT, SMALL_HEAD = 64, 32, 32
SIGMOID_SCALE, SIGMOID_BIAS = 2.302585092994046, -10.0
"""ln 10 and −10: where SigLIP's scale and bias start (Zhai et al. 2023)."""


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A model's architecture and preprocessing, in the words of open_clip's `open_clip_config.json`."""

    model_cfg: dict[str, Any]
    """Sizes of both towers."""
    preprocess_cfg: dict[str, Any]
    """size, mean, std, interpolation, resize_mode."""

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        size = self.model_cfg["vision_cfg"].get("image_size", 224)
        return int(size if isinstance(size, int) else size[0])

    def as_json(self) -> dict[str, Any]:
        """The content of `open_clip_config.json`."""
        return {
            "model_cfg": copy.deepcopy(self.model_cfg),
            "preprocess_cfg": copy.deepcopy(self.preprocess_cfg),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Back from `as_json`."""
        return cls(copy.deepcopy(dict(content["model_cfg"])), copy.deepcopy(dict(content["preprocess_cfg"])))

    def assemble(self) -> SuperCLIP:
        """The model with its tokenizer; weights are random, drawn from torch's generator.

        Raises:
            HeadwordError: if open_clip cannot build it, or its image tower has no patch tokens.
        """
        import open_clip

        check_clip_config(self.as_json(), "the model's configuration")  # it may be another's checkpoint
        with tempfile.TemporaryDirectory(prefix="headword-") as folder:
            (Path(folder) / CONFIG).write_text(json.dumps(self.as_json()), encoding="utf-8")
            with _quiet_open_clip():
                try:
                    clip = open_clip.create_model(
                        f"local-dir:{folder}",
                        load_weights=False,
                        pretrained_text=False,
                        force_image_size=self.image_size,
                    )
                    if isinstance(clip, open_clip.CoCa):  # which leaves this as the memory was
                        nn.init.normal_(clip.text_decoder.text_projection, std=clip.text_decoder.width**-0.5)
                    return SuperCLIP(clip, tokenizer_of(f"local-dir:{folder}", self.model_cfg))
                except (TypeError, ValueError, RuntimeError, AssertionError) as error:
                    raise HeadwordError(
                        f"this model cannot be built: {' '.join(str(error).split())}"
                    ) from error

    def filled(self, tensors: Mapping[str, Tensor]) -> SuperCLIP:
        """The model of a task's state, gathered from shards or not, in evaluation mode.

        Raises:
            HeadwordError: as `assemble`, or if the state is of another model.
        """
        model = self.assemble()
        tensors = {name.removeprefix(OWN): t for name, t in tensors.items() if name.startswith(OWN)}
        own = model.state_dict()
        if own.keys() != tensors.keys() or any(own[n].numel() != t.numel() for n, t in tensors.items()):
            raise HeadwordError("the weights are of another model than their run's options name")
        model.load_state_dict({name: value.reshape(own[name].shape) for name, value in tensors.items()})
        return model.eval()


def build(config: TrainConfig) -> tuple[SuperCLIP, Blueprint]:
    """The model that a configuration names, in training mode, and how to build it again; what no loss of its
    method reaches is frozen.

    What is random is drawn from `config.seed`; torch's own generator stays as it was.

    Raises:
        HeadwordError: if an architecture, its weights or a backbone cannot be had, or do not fit the options.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.backbone is not None:
            model, blueprint = _from_backbone(config)
        elif config.model == "small" or config.model.startswith("timm:"):
            blueprint = _own_towers(config)
            model = blueprint.assemble()
        else:
            model, blueprint = _from_open_clip(config)
    if config.patch_dropout and not any("PatchDropout" in type(part).__name__ for part in model.modules()):
        raise HeadwordError("this image tower has no patches to drop; leave out patch_dropout, or take a ViT")
    freeze_unreached(make_task(model, config))
    if config.grad_checkpointing:
        try:
            model.set_grad_checkpointing()
        except (AttributeError, NotImplementedError, AssertionError) as error:
            raise HeadwordError(
                "this image tower cannot recompute activations; leave out grad_checkpointing"
            ) from error
    return model.train(), blueprint


def _own_towers(config: TrainConfig, timm_name: str | None = None) -> Blueprint:
    size = config.image_size or SMALL_SIZE
    kind, _, name = config.model.partition(":")
    if kind == "timm":
        _check_timm(name)
        timm_name = name
    if timm_name is None:
        if size % config.patch_size:
            raise HeadwordError(f"image_size {size} is no multiple of patch_size {config.patch_size}")
        vision: dict[str, Any] = {
            "layers": config.vision_layers,
            "width": config.vision_width,
            "head_width": SMALL_HEAD,
            "patch_size": config.patch_size,
        }
    else:
        vision = {"timm_model_name": timm_name, "timm_pool": "", "timm_proj": "linear"}
    vision |= {"image_size": size, "patch_dropout": config.patch_dropout}
    model: dict[str, Any] = {
        "embed_dim": config.embed_dim,
        "vision_cfg": vision,
        "text_cfg": {
            "context_length": config.context_length or SMALL_CONTEXT,
            "vocab_size": 49408,
            "width": config.text_width,
            "heads": config.text_width // SMALL_HEAD,
            "layers": config.text_layers,
        },
    }
    return Blueprint(_with_sigmoid(model, config), _preprocessing(size))


def _from_open_clip(config: TrainConfig) -> tuple[SuperCLIP, Blueprint]:
    import open_clip

    known = open_clip.get_model_config(config.model)
    if known is None:
        raise HeadwordError(
            f"open_clip has no architecture {config.model!r}{near(config.model, open_clip.list_models())}; "
            "model is small, timm:NAME, or one of open_clip's"
        )
    overrides = {
        "force_image_size": config.image_size,
        "force_context_length": config.context_length,
        "force_patch_dropout": config.patch_dropout or None,
    }
    cfg = copy.deepcopy(known)
    cfg["vision_cfg"]["timm_model_pretrained"] = False
    if config.image_size is not None:
        cfg["vision_cfg"]["image_size"] = config.image_size
    if config.context_length is not None:
        cfg["text_cfg"]["context_length"] = config.context_length
    if config.patch_dropout:
        cfg["vision_cfg"]["patch_dropout"] = config.patch_dropout
    size = cfg["vision_cfg"].get("image_size", 224)
    blueprint = Blueprint(_with_sigmoid(cfg, config), _preprocessing(size))
    if config.pretrained is None:
        return blueprint.assemble(), blueprint
    from headword.encoders.hub import loading

    local = expand(config.pretrained).is_file()
    weights = str(expand(config.pretrained)) if local else config.pretrained
    with loading(f"{config.model} {config.pretrained}", local=local):
        trained = open_clip.create_model(config.model, pretrained=weights, **overrides)
    preprocess = {**trained.visual.preprocess_cfg, "size": size}
    blueprint = Blueprint(blueprint.model_cfg, preprocess)
    model = blueprint.assemble()
    state = trained.state_dict()
    if config.sigmoid and trained.logit_bias is None:
        for name in ("logit_scale", "logit_bias"):  # another loss's scale: start as SigLIP does
            state[name] = model.clip.state_dict()[name]
    _load(model.clip, state, f"{config.model} {config.pretrained}")
    return model, blueprint


def _from_backbone(config: TrainConfig) -> tuple[SuperCLIP, Blueprint]:
    source = _classifier(str(config.backbone))
    trunk: Any = source.model
    pretrained = getattr(trunk, "pretrained_cfg", None)
    if not pretrained or "architecture" not in pretrained or not hasattr(trunk, "forward_features"):
        raise HeadwordError(
            f"{source.kind}:{source.id} is no timm model, which backbone needs; give a timm id, "
            "a timm folder, or embedded"
        )
    size = config.image_size or int(source.input_size[0])
    drawn = _own_towers(config.replace(image_size=size), str(pretrained["architecture"]))
    settings = source.transform_settings
    preprocess = {
        **drawn.preprocess_cfg,
        "mean": list(settings["mean"]),
        "std": list(settings["std"]),
        "interpolation": settings.get("interpolation", "bicubic"),
    }
    blueprint = Blueprint(drawn.model_cfg, preprocess)
    model = blueprint.assemble()
    if hasattr(trunk, "set_input_size"):
        trunk = copy.deepcopy(trunk)
        trunk.set_input_size(img_size=(size, size))
    wanted = model.clip.visual.trunk.state_dict()
    state = {name: tensor for name, tensor in trunk.state_dict().items() if name in wanted}
    _load(model.clip.visual.trunk, state, f"{source.kind}:{source.id}")
    return model, blueprint


def _classifier(spec: str) -> Any:
    """The vision source that a classifier's name or a saved model's folder means."""
    from headword.encoders import load_vision
    from headword.model import load

    if is_saved_model(spec):
        return load(spec, device="cpu").vision.source
    return load_vision(spec, device="cpu").source


def is_saved_model(spec: str) -> bool:
    """Whether a backbone is named by the folder of a saved model."""
    return (expand(spec) / MARKER).is_file()


def _load(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise HeadwordError(f"the weights of {what} do not fit the image tower: {reason[:300]}") from error


def _with_sigmoid(model_cfg: dict[str, Any], config: TrainConfig) -> dict[str, Any]:
    if not config.sigmoid:
        return {name: value for name, value in model_cfg.items() if name != "init_logit_bias"}
    return {"init_logit_scale": SIGMOID_SCALE, "init_logit_bias": SIGMOID_BIAS, **model_cfg}


def _preprocessing(size: int) -> dict[str, Any]:
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    return {
        "size": size,
        "mode": "RGB",
        "mean": list(OPENAI_DATASET_MEAN),
        "std": list(OPENAI_DATASET_STD),
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }


def _check_timm(name: str) -> None:
    import timm

    if not timm.is_model(name.partition(".")[0]):
        raise HeadwordError(f"timm has no model {name!r}{near(name, timm.list_models())}")


@contextmanager
def _quiet_open_clip() -> Iterator[None]:
    """open_clip warns on the root logger that a model built without weights has none."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)

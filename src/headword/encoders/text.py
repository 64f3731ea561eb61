"""A frozen text encoder: strings → vectors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headword.cache import VectorCache, cache_limit, key_of
from headword.encoders.vision import fingerprint, resolve_device
from headword.errors import HeadwordError, near

CACHE_FROM = 256
"""Texts from which a call is worth looking up: fewer are encoded in about the time that takes."""

_STRETCH = 8192  # texts encoded between two writes to the cache

_TOKENS = 512
"""Tokens of a batch on a CPU, whose intermediate results then stay in a core's own cache."""

Progress = Callable[[int, int], None]
"""Called with (texts done, texts in all)."""


@dataclass(slots=True, kw_only=True)
class TextSource:
    """What a loader hands over: one text encoder."""

    kind: str
    """Which loader: "embedded", "sentence-transformers", "open_clip" or "transformers"."""
    id: str
    """The name to load it by again; a folder is absolute."""
    model: nn.Module
    embed: Callable[[list[str]], Tensor]
    """A batch of N texts → `[N, k]`, on the model's device."""
    lengths: Callable[[list[str]], list[int]] | None = None
    """How many tokens each text has. A source that says so may be asked by several threads at once."""
    revision: str | None = None
    licence: str | None = None
    extra_fingerprint: str = ""
    """sha256 over what else decides an embedding: tokens, maximal length, pooling; empty where not known."""
    save: Callable[[Path], str] | None = None
    """Writes the model into a folder and returns the folder's name to load it from, where the source can."""


@dataclass(slots=True, repr=False)
class TextEncoder:
    """Texts → embeddings; see `load_text`."""

    source: TextSource
    device: torch.device
    dim: int
    _fingerprint: str = ""

    def __repr__(self) -> str:
        return f"TextEncoder({self.name}, dim {self.dim})"

    @property
    def name(self) -> str:
        """kind:id, the whole name of the encoder."""
        return f"{self.source.kind}:{self.source.id}"

    @property
    def fingerprint(self) -> str:
        """sha256 over the model's tensors."""
        if not self._fingerprint:
            self._fingerprint = fingerprint(self.source.model)
        return self._fingerprint

    def encode(
        self,
        texts: Sequence[str],
        *,
        batch_size: int = 64,
        cache: bool = True,
        progress: Progress | None = None,
    ) -> Tensor:
        """N texts → float32 `[N, k]` on the CPU.

        Texts of like length go through the model together, so that little is spent on padding; each different
        text is encoded once. Calls with `CACHE_FROM` texts and more are looked up in the cache and put into
        it. `progress` is called after every batch, with different texts counted.
        """
        if isinstance(texts, str):
            raise HeadwordError(f"texts must be a list of strings, got one string; write [{texts!r}]")
        if not texts:
            return torch.empty(0, self.dim)
        unique = list(dict.fromkeys(texts))
        rows = torch.empty(len(unique), self.dim)
        known = torch.zeros(len(unique), dtype=torch.bool)
        kept = VectorCache(self._space(), self.dim) if cache and len(unique) >= CACHE_FROM else None
        keys = [key_of(text) for text in unique] if kept is not None else []
        if kept is not None:
            known = kept.get(keys, rows)
        missing = (~known).nonzero().flatten().tolist()
        batches = self._batches(unique, missing, batch_size)
        done, unsaved = len(unique) - len(missing), list[int]()
        try:
            with self._running(len(batches)) as run:
                embedded = run(lambda batch: self._embedded([unique[row] for row in batch]), batches)
                for batch, vectors in zip(batches, embedded, strict=True):
                    rows[batch] = vectors
                    done, unsaved = done + len(batch), unsaved + batch
                    if kept is not None and len(unsaved) >= _STRETCH:
                        kept.put([keys[row] for row in unsaved], rows[unsaved])
                        unsaved = []
                    if progress is not None:
                        progress(done, len(unique))
        except KeyboardInterrupt:
            if kept is None or not cache_limit():
                raise
            raise KeyboardInterrupt(
                f"{done:,} of {len(unique):,} encoded texts are kept; the same command goes on from there"
            ) from None
        finally:  # an interrupted call has not worked for nothing
            if kept is not None:
                kept.put([keys[row] for row in unsaved], rows[unsaved])
        if len(unique) == len(texts):
            return rows
        place = {text: row for row, text in enumerate(unique)}
        return rows[[place[text] for text in texts]]

    @torch.inference_mode()
    def _embedded(self, texts: list[str]) -> Tensor:
        return self.source.embed(texts).float().cpu()

    def _batches(self, texts: Sequence[str], rows: list[int], batch_size: int) -> list[list[int]]:
        """The rows to encode, by length; batches in which many texts are of one length need no padding."""
        if self.source.lengths is None or len(rows) <= batch_size:
            ordered = sorted(rows, key=lambda row: (len(texts[row]), texts[row]))
            return [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
        length = dict(zip(rows, self.source.lengths([texts[row] for row in rows]), strict=True))
        batches: list[list[int]] = []
        room = 0
        for row in sorted(rows, key=lambda row: (length[row], texts[row])):
            if room < length[row]:
                batches.append([])
                room = _TOKENS if self.device.type == "cpu" else batch_size * length[row]
            batches[-1].append(row)
            room -= length[row]
        return batches

    @contextmanager
    def _running(self, batches: int) -> Iterator[Callable[..., Iterator[Tensor]]]:
        """A `map` over batches: on a CPU each is one core's, where the source allows it.

        Cores that share one batch wait for each other after every operation, and spend more on that than on
        the operations: three times the processor time, measured.
        """
        cores = torch.get_num_threads()
        if self.device.type != "cpu" or self.source.lengths is None or min(batches, cores) < 2:
            yield map
            return
        pool = ThreadPoolExecutor(min(batches, cores), initializer=torch.set_num_threads, initargs=(1,))
        try:
            yield pool.map
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(cores)  # of threads yet to come: torch takes the last number said

    def _space(self) -> dict[str, Any]:
        """What an embedding depends on besides its text; the id and revision stand for the tokenizer."""
        return {
            "kind": "text",
            "encoder": self.name,
            "revision": self.source.revision,
            "weights": self.fingerprint,
            "device": self.device.type,
        }

    def provenance(self) -> dict[str, Any]:
        """All that is needed to name, find and verify the encoder again, as JSON."""
        return {
            "kind": self.source.kind,
            "id": self.source.id,
            "revision": self.source.revision,
            "licence": self.source.licence,
            "weights_sha256": self.fingerprint,
            "tokenizer_sha256": self.source.extra_fingerprint,
            "dim": self.dim,
        }


def load_text(
    text: str | os.PathLike[str] | TextSource | TextEncoder = "embedded",
    *,
    device: str | torch.device = "auto",
) -> TextEncoder:
    """Load a text encoder.

    Args:
        text: "embedded" (all-MiniLM-L6-v2); a sentence-transformers id or folder;
            "open_clip:ARCHITECTURE/WEIGHTS"
            (WEIGHTS a tag or a file) or "open_clip:hf-hub:ID"; "transformers:ID" (mean over the last
            layer's tokens).
        device: "auto", "cpu", "cuda" or "mps".

    Raises:
        HeadwordError: if the model cannot be had.
    """
    if isinstance(text, TextEncoder):
        return text
    where = resolve_device(device)
    source = text if isinstance(text, TextSource) else _open(os.fspath(text))
    source.model.eval().requires_grad_(False).to(where)
    with torch.inference_mode():
        probe = source.embed(["a photo"])
    if probe.ndim != 2 or not torch.isfinite(probe).all():
        raise HeadwordError(
            f"the text encoder {source.kind}:{source.id} gives no finite vector for 'a photo'"
        )
    return TextEncoder(source, where, int(probe.shape[1]))


def _open(spec: str) -> TextSource:
    from headword.encoders import text_sources as sources

    kind, colon, name = spec.partition(":")
    if colon and kind in sources.LOADERS:
        return sources.LOADERS[kind](name)
    if spec == "embedded":
        return sources.LOADERS["embedded"]("minilm")
    misspelt = "/" not in spec and near(kind, sources.LOADERS)
    if misspelt:
        raise HeadwordError(
            f"there is no text encoder {spec!r}{misspelt} Kinds: {', '.join(sources.LOADERS)}, a "
            "sentence-transformers id, a folder"
        )
    return sources.LOADERS["sentence-transformers"](spec)

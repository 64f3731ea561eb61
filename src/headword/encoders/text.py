"""A frozen text encoder: strings → vectors."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headword.cache import VectorCache, keeping, key_of
from headword.encoders.base import Encoder, Source
from headword.errors import HeadwordError

CACHE_FROM = 256
"""Texts from which a call is worth looking up: fewer are encoded in about the time that takes."""

_STRETCH = 8192  # texts encoded between two writes to the cache
_TOKENS = 512  # of a batch on a CPU, whose intermediate results then stay in a core's own cache

Progress = Callable[[int, int], None]
"""Called with (texts done, texts in all)."""


@dataclass(frozen=True, slots=True)
class TokenEncoder:
    """A text encoder in its two halves, tokenizer and model."""

    tokenizer: Callable[[], str]
    """Its `tokenizer.json`, which cuts and pads."""
    embed: Callable[[Tensor, Tensor], Tensor]
    """Token ids `[N, T]` and a mask, 0 where they pad → `[N, k]`."""
    max_length: int
    pad_id: int
    pad_token: str


@dataclass(slots=True, kw_only=True)
class TextSource(Source):
    """One text encoder."""

    embed: Callable[[list[str]], Tensor]
    """A batch of N texts → `[N, k]`, on the model's device."""
    lengths: Callable[[list[str]], list[int]] | None = None
    """How many tokens each text has. A source that says so may be asked by several threads at once."""
    tokens: TokenEncoder | None = None
    """The halves, where the model can be taken apart there."""
    extra_fingerprint: str = ""
    """sha256 over what else decides an embedding: tokens, maximal length, pooling; empty where not known."""


@dataclass(slots=True, repr=False)
class TextEncoder(Encoder):
    """Texts → embeddings; see `load_text`."""

    source: TextSource

    def __repr__(self) -> str:
        return f"TextEncoder({self.name}, dim {self.dim})"

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
        check_texts(texts)
        if not texts:
            return torch.empty(0, self.dim)
        unique = list(dict.fromkeys(texts))
        rows = torch.empty(len(unique), self.dim)
        store = VectorCache(self._space(), self.dim) if cache and len(unique) >= CACHE_FROM else None
        keys = [key_of(text) for text in unique] if store else []
        known = store.get(keys, rows) if store else torch.zeros(len(unique), dtype=torch.bool)
        missing = (~known).nonzero().flatten().tolist()
        batches = self._batches(unique, missing, batch_size)
        done = len(unique) - len(missing)

        @torch.inference_mode()
        def embed(batch: list[int]) -> Tensor:
            return self.source.embed([unique[row] for row in batch]).float().cpu()

        def put(computed: list[int]) -> None:
            assert store is not None
            store.put([keys[row] for row in computed], rows[computed])

        def kept() -> str:
            return f"{done:,} of {len(unique):,} encoded texts are kept"

        with (
            keeping(put if store is not None and store.on else None, _STRETCH, kept) as keep,
            self._running(len(batches)) as run,
        ):
            for batch, vectors in zip(batches, run(embed, batches), strict=True):
                rows[batch] = vectors
                done += len(batch)
                keep(batch)
                if progress is not None:
                    progress(done, len(unique))
        if len(unique) == len(texts):
            return rows
        place = {text: row for row, text in enumerate(unique)}
        return rows[[place[text] for text in texts]]

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
        extra = {"tokenizer_sha256": self.source.extra_fingerprint, "dim": self.dim}
        return Encoder.provenance(self) | extra


def check_texts(texts: Sequence[str]) -> None:
    """Refuse texts that are no list of strings, each of which can be written as UTF-8."""
    if isinstance(texts, str):
        raise HeadwordError(f"texts must be a list of strings, got one string; write [{texts!r}]")
    for place, text in enumerate(texts, start=1):
        if not isinstance(text, str):
            raise HeadwordError(f"text {place} of {len(texts)} is {type(text).__name__}, not a string")
        if re.search("[\ud800-\udfff]", text):
            raise HeadwordError(f"text {place} of {len(texts)} has bytes that are not UTF-8")


PROBES = (
    "a photo of a cat",
    "",
    "Ünïcödé, CamelCase and 東京 🐈",
    "don't stop: 3.14 × 2 = 6.28 (hand-made)\n\ttench, Tinca tinca",
    "The quick brown fox jumps over the lazy dog; Jackdaws love my big sphinx of quartz.",
    "word " * 1000,
)
"""Texts whose tokens tell tokenizers, and their maximal lengths, apart."""


def token_fingerprint(ids: Sequence[Sequence[int]], **settings: Any) -> str:
    """sha256 over the tokens of `PROBES` and what else says how texts become vectors."""
    content = json.dumps([[list(map(int, row)) for row in ids], settings], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()

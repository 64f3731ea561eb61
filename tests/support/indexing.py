"""What the tests of search share: a tiny model of both sides, and what an index finds."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from headword.encoders import TextEncoder, load_text
from headword.encoders.text import TextSource
from headword.model import DualEncoder
from headword.recycling import recycle
from headword.search import Index, Query
from support.extraction import tiny_vision

WORDS = ("ant", "bee", "an elk in the snow")
QUERIES = [Query(text=word) for word in WORDS]


def _embed(texts: list[str]) -> Tensor:
    """A vector a word, the same every time; a text is the mean of its words."""
    rows = []
    for text in texts:
        seeds = [
            int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "little") for word in text.split()
        ]
        words = [np.random.default_rng(seed).standard_normal(8) for seed in seeds]
        rows.append(np.mean(words or [np.ones(8)], axis=0))
    return torch.from_numpy(np.stack(rows)).float()


def tiny_model(**options: Any) -> DualEncoder:
    """A dual encoder that takes no time: a convolution, and a vector a word."""
    return recycle(tiny_vision(), tiny_text(), device="cpu", **options)


def tiny_text() -> TextEncoder:
    """A vector a word."""
    return load_text(TextSource(kind="test", id="words", model=nn.Identity(), embed=_embed), device="cpu")


def found(index: Index) -> dict[str, Any]:
    """All that can be asked of an index, for comparison: hits, tags, names, centre."""
    said = index.about()
    return {
        "hits": [index.search(query, k=1000) for query in QUERIES],
        "all": index.browse(k=1000),
        "filtered": index.browse(k=1000, where="bytes > 0"),
        "tags": index.tags(),
        "images": said["images"],
        "unreadable": said["unreadable"],
        "centre": index._version.centre.tolist(),
    }


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but the lock."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

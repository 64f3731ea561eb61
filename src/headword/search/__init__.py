"""A folder of images, searched by words, by pictures, or both: an index on disk that grows with the folder.

    query.py      what is asked, and what is found
    index.py      an index, to read; version.py is one version of it, opened
    building.py   making and refreshing an index
    draft.py      the next version while it is made, and the journal of an unfinished run
    embedding.py  new files → rows
    tagging.py    zero-shot labels for all images, and what is said of them by hand
    sharing.py    tags written where other programs read them
    duplicates.py images that are there more than once
    manifest.py   what an index says of itself: its version, its model; one writer at a time
    catalogue.py  a version's images, tags and state: a SQLite file
    filter.py     the language of filters
    rows.py       features on disk
    relevance.py  the chance that a hit shows the words, and where the answers end
    space.py      features → cosines to words: one affine map a query
    exact.py      the exact nearest rows

Importing this package does not load torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headword.search.manifest import read_version
from headword.search.query import Hit, Hits, Query

if TYPE_CHECKING:
    from headword.search.building import Changes as Changes
    from headword.search.building import build_index as build_index
    from headword.search.index import Index as Index

__all__ = ["Changes", "Hit", "Hits", "Index", "Query", "build_index", "read_version"]

_HOMES = {"Index": "index", "Changes": "building", "build_index": "building"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"headword.search.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'headword.search' has no attribute {name!r}")

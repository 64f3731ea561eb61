"""A folder of images, searched by words, by pictures, or both: an index on disk that grows with the folder.

    query.py       what is asked, and what is found
    manifest.py    what an index says of itself
    scan.py        the files of a folder
    rows.py        features on disk, and their 8-bit codes
    space.py       features → the space shared with words, as one affine map a query
    exact.py       the exact nearest rows
    approximate.py LanceDB's neighbours, for large collections
    table.py       names, sizes, tags: LanceDB's table, and its filters
    index.py       an index, to read
    build.py       making and refreshing one
    tagging.py     zero-shot labels for all its images

Importing this package loads neither torch nor LanceDB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headword.search.manifest import read_version
from headword.search.query import Hit, Query

if TYPE_CHECKING:
    from headword.search.build import Changes as Changes
    from headword.search.build import build_index as build_index
    from headword.search.index import Index as Index

__all__ = ["Changes", "Hit", "Index", "Query", "build_index", "read_version"]

_HOMES = {"Index": "index", "Changes": "build", "build_index": "build"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(f"headword.search.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'headword.search' has no attribute {name!r}")

"""A feature store that `headword embed` made of a folder, as the source of an index."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headword.errors import HeadwordError
from headword.extract.store import read_status
from headword.extract.stored_features import StoredFeatures


def stored_root(store: Path) -> Path:
    """The folder whose pictures a store is of.

    Raises:
        HeadwordError: if the store is damaged, or its pictures are not those of one folder.
    """
    roots = {path.removesuffix(f"/{name}") for name, path, _ in read_status(store)}
    if len(roots) != 1 or not (root := Path(roots.pop())).is_dir():
        raise HeadwordError(
            f"{store} is not of one folder of pictures, which an index is of; give headword embed the "
            "folder, or index it by itself"
        )
    return root.resolve()


def how_of_stored(
    features: StoredFeatures, identity: Mapping[str, Any], how: Mapping[str, Any]
) -> dict[str, Any]:
    """On what features were computed, for an index of a classifier that was computed on `how`, if it was yet.

    Raises:
        HeadwordError: if they are not those of the index.
    """
    key = features.key
    other = next((part for part in ("weights", "head", "transform") if key[part] != identity[part]), None)
    if other is not None:
        raise HeadwordError(
            f"{features.folder} was made with the classifier {key['encoder']}, and this is "
            f"{identity['encoder']}, with another {other}; give that model"
        )
    own = {name: key[name] for name in ("engine", "precision", "exact", "draft")}
    expected = {name: how[name] for name in own} if how else {**own, "draft": not own["exact"]}
    if own != expected:
        raise HeadwordError(
            f"{features.folder} was computed in another way ({own}) than the index ({expected}); leave the "
            "store out: headword index MODEL FOLDER"
        )
    return own

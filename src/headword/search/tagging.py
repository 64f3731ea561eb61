"""Zero-shot labels for all images of an index."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from headword.encoders.prompts import check_labels, check_templates
from headword.files import sha256
from headword.model import DualEncoder
from headword.search.identity import check_model
from headword.search.lock import writing
from headword.search.manifest import Manifest
from headword.search.rows import Rows
from headword.search.space import Floats, Space
from headword.search.table import integers, read_table, row_sums, with_tags, write_table

if TYPE_CHECKING:
    import pyarrow as pa

    from headword.extract import Progress

Words = Callable[[list[str]], Tensor]
"""Texts → unit vectors `[N, D]` in the shared space."""

_ROWS = 4096  # rows at a time


@dataclass(frozen=True, slots=True)
class Labels:
    """What an index was tagged with; new images get the same labels when it is refreshed."""

    labels: list[str]
    template: list[str]
    none_of_these: bool


def tag_index(
    folder: Path,
    model: DualEncoder,
    labels: Sequence[str],
    *,
    template: str | Sequence[str] | None = None,
    none_of_these: bool = False,
    words: Words | None = None,
    progress: Progress | None = None,
) -> None:
    """Give every image of an index the label that fits it best, as `DualEncoder.classify` would.

    Args:
        folder: the index.
        model: its model.
        labels: any words.
        template: as in `DualEncoder.classify`.
        none_of_these: images that no label fits have none.
        words: encodes the labels in place of the model, template included.
        progress: called with (done, all) of the images.

    Raises:
        HeadwordError: for no labels, an empty or a repeated one, a bad template, or an index that another
            process is writing, was made with another model, or cannot be written; it is then what it was.
    """
    from headword.search.commit import publish, version_of

    templates = check_templates(model.template if template is None else template)
    asked = Labels(check_labels(labels), list(templates), none_of_these)
    with writing(folder):
        before = Manifest.read(folder)
        check_model(model, before.model, folder)
        state = before.read_state(folder)
        images = read_table(before.table_file(folder))
        sums = row_sums(images)
        rows = Rows.open(folder, before.rows, before.slots, before.dim, before.rounding, sums)
        space = Space.of(model.aligner, state["centre"])
        r = state["inverse_norms"]
        images = with_tags(images, *label_all(model, asked, images, rows, r, space, words, progress))
        generation = before.generation + 1
        name = f"images-{generation:06d}"
        write_table(folder, name, images)
        kept = {file: digest for file, digest in before.files.items() if not file.startswith(before.table)}
        fresh = replace(
            before,
            generation=generation,
            version=version_of(generation),
            table=name,
            tags=asdict(asked),
            files={**kept, f"{name}.arrow": sha256(folder / f"{name}.arrow")},
        )
        publish(folder, fresh, before)


def label_all(
    model: DualEncoder,
    asked: Labels,
    images: pa.Table,
    rows: Rows,
    inverse_norms: Floats,
    space: Space,
    words: Words | None = None,
    progress: Progress | None = None,
) -> tuple[list[str | None], Floats]:
    """The label of each image of a table, or None, and its probability `[N]`."""
    encode = words or partial(model.encode_text, template=asked.template)
    text = encode(asked.labels)
    a, b = space.affine(text)
    slots = integers(images, "slot")
    readable = np.flatnonzero(slots >= 0)
    tags: list[str | None] = [None] * len(slots)
    scores = np.zeros(len(slots), np.float32)
    for start in range(0, len(readable), _ROWS):
        places = readable[start : start + _ROWS]
        at = slots[places]
        cosines = inverse_norms[at, None] * (rows[at] @ a.T - b)
        chances = model.scores.probabilities(
            torch.from_numpy(cosines).float(), none_of_these=asked.none_of_these
        )
        best = chances.max(dim=1)
        scores[places] = best.values.numpy()
        for place, label in zip(places.tolist(), best.indices.tolist(), strict=True):
            tags[place] = asked.labels[label] if label < len(asked.labels) else None
        if progress is not None:
            progress(start + len(places), len(readable))
    return tags, scores

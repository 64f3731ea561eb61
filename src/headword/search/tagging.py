"""Zero-shot labels for all images of an index."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from headword.classifier import Classifier
from headword.encoders.prompts import check_templates
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

_ROWS = 4096  # rows at a time


@dataclass(frozen=True, slots=True)
class Labels:
    """What an index was tagged with; new images get the same labels when it is refreshed."""

    labels: list[str]
    template: list[str]
    none_of_these: bool


def tag_index(
    folder: Path, model: DualEncoder, classifier: Classifier, *, progress: Progress | None = None
) -> None:
    """Give every image of an index the label that fits it best, as `DualEncoder.classify` would.

    Args:
        folder: the index.
        model: its model.
        classifier: the labels; images that fit its "none of these" have none.
        progress: called with (done, all) of the images.

    Raises:
        HeadwordError: if another process is writing the index, it was made with another model, or cannot be
            written; it is then what it was.
    """
    from headword.search.commit import publish, version_of

    templates = check_templates(classifier.templates or model.templates)
    tags = Labels(list(classifier.labels), list(templates), classifier.none_of_these)
    with writing(folder):
        before = Manifest.read(folder)
        check_model(model, before.model, folder)
        state = before.read_state(folder)
        images = read_table(before.table_file(folder))
        sums = row_sums(images)
        rows = Rows.open(folder, before.rows, before.slots, before.dim, before.rounding, sums)
        space = Space.of(model.aligner, state["centre"])
        r = state["inverse_norms"]
        images = with_tags(images, *label_all(classifier, images, rows, r, space, progress))
        generation = before.generation + 1
        name = f"images-{generation:06d}"
        write_table(folder, name, images)
        kept = {file: digest for file, digest in before.files.items() if not file.startswith(before.table)}
        fresh = replace(
            before,
            generation=generation,
            version=version_of(generation),
            table=name,
            tags=asdict(tags),
            files={**kept, f"{name}.arrow": sha256(folder / f"{name}.arrow")},
        )
        publish(folder, fresh, before)


def label_all(
    classifier: Classifier,
    images: pa.Table,
    rows: Rows,
    inverse_norms: Floats,
    space: Space,
    progress: Progress | None = None,
) -> tuple[list[str | None], Floats]:
    """The label of each image of a table, or None, and its probability `[N]`."""
    a, b = space.affine(classifier.weight)
    slots = integers(images, "slot")
    readable = np.flatnonzero(slots >= 0)
    tags: list[str | None] = [None] * len(slots)
    scores = np.zeros(len(slots), np.float32)
    labels = [*classifier.labels, None]  # none of these, where that is a class
    for start in range(0, len(readable), _ROWS):
        places = readable[start : start + _ROWS]
        at = slots[places]
        logits = torch.from_numpy(inverse_norms[at, None] * (rows[at] @ a.T - b)).float() + classifier.bias
        best = classifier.probabilities(logits).max(dim=1)
        scores[places] = best.values.numpy()
        for place, label in zip(places.tolist(), best.indices.tolist(), strict=True):
            tags[place] = labels[label]
        if progress is not None:
            progress(start + len(places), len(readable))
    return tags, scores

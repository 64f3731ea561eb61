"""Zero-shot labels for all images of an index."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from headword.dual_encoder import DualEncoder
from headword.encoders.prompts import check_labels
from headword.extract import Progress
from headword.files import load_tensors
from headword.scoring import NONE_OF_THESE
from headword.search.lock import writing
from headword.search.manifest import Manifest
from headword.search.rows import open_rows
from headword.search.space import Space
from headword.search.table import drop_tables, read_table, write_table


def tag_index(
    folder: Path,
    model: DualEncoder,
    labels: Sequence[str],
    *,
    template: str | Sequence[str] | None = None,
    none_of_these: bool = False,
    words: Callable[[list[str]], Tensor] | None = None,
    progress: Progress | None = None,
) -> None:
    """Give every image of an index the label that fits it best."""
    labels = check_labels(labels)
    with writing(folder):
        before = Manifest.read(folder)
        if words is None:
            text = model.encode_text(labels, template=model.template if template is None else template)
        else:
            text = words(labels)
        state = load_tensors(folder / f"{before.state}.safetensors")
        space = Space.of(model.aligner, state["centre"].numpy())
        a, b = space.affine(text)
        table = read_table(folder, before.table)
        slots = table["slot"].to_numpy()
        units = open_rows(folder, before.rows, before.slots, before.dim)
        cosines = state["inverse_norms"].numpy()[:, None] * (units @ a.T - b)
        chances = model.scores.probabilities(torch.from_numpy(cosines).float(), none_of_these=none_of_these)
        best = chances.max(dim=1)
        names = [*labels, NONE_OF_THESE]
        tags = [None if slot < 0 else names[int(best.indices[slot])] for slot in slots]
        scores = [None if slot < 0 else float(best.values[slot]) for slot in slots]
        table = table.set_column(table.schema.get_field_index("tag"), "tag", pa.array(tags, pa.string()))
        table = table.set_column(
            table.schema.get_field_index("tag_score"), "tag_score", pa.array(np.array(scores, dtype=object), pa.float32())
        )
        generation = before.generation + 1
        name = f"images-{generation:06d}"
        write_table(folder, name, table)
        dataclasses.replace(
            before,
            generation=generation,
            version=f"{generation}-{uuid.uuid4().hex[:8]}",
            table=name,
            tags={"labels": labels, "none_of_these": none_of_these},
        ).write(folder)
        drop_tables(folder, [name, before.table])
    if progress is not None:
        progress(len(slots), len(slots))

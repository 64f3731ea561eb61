"""Zero-shot labels for all images of an index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from headword.classifier import Classifier
from headword.encoders.fingerprint import check_model
from headword.encoders.prompts import check_templates
from headword.model import DualEncoder
from headword.search.catalogue import Tag
from headword.search.manifest import Manifest, publish, writing
from headword.search.rows import Rows
from headword.search.space import Floats, Indices, Space
from headword.search.version import Version

if TYPE_CHECKING:
    from headword.extract import Progress

_ROWS = 4096  # rows at a time


def tag_index(
    folder: Path, model: DualEncoder, classifier: Classifier, *, progress: Progress | None = None
) -> None:
    """Give every image of an index the label that fits it best, as `DualEncoder.classify` would.

    An index that another process is writing, that was made with another model, or that cannot be written is
    what it was, and the error says so.
    """
    templates = check_templates(classifier.templates or model.templates)
    tags = {
        "labels": list(classifier.encoded().labels),
        "template": list(templates),
        "none_of_these": classifier.none_of_these,
    }
    with writing(folder):
        before = Manifest.read(folder)
        check_model(model, before.model, folder)
        version = Version.open(folder, before)
        space, r = version.space(model.aligner), version.inverse_norms
        given = label_all(classifier, version.slots, version.rows, r, space, progress)
        rows = torch.cat([classifier.weight, classifier.bias[:, None]], dim=1).float().numpy()
        taught = rows if len(classifier.examples) else rows[:0]
        facts = {"tags": tags}
        publish(folder, before, lambda path: version.catalogue.write_retagged(path, given, taught), facts)


def tagger(model: DualEncoder, tags: dict[str, Any], taught: Floats) -> Classifier:
    """The classifier that an index was tagged by, of words or with what it was taught."""
    templates, none_of_these = tags["template"], tags["none_of_these"]
    classifier = model.classifier(tags["labels"], templates=templates, none_of_these=none_of_these)
    if len(taught):
        rows = torch.from_numpy(taught).view(len(classifier.classes_), -1)
        classifier.use(rows[:, :-1], rows[:, -1])
    return classifier


def label_all(
    classifier: Classifier,
    slots: Indices,
    rows: Rows,
    inverse_norms: Floats,
    space: Space,
    progress: Progress | None = None,
) -> Iterator[Tag]:
    """The label of the image in each slot, or None, and its probability."""
    a, b = space.affine(classifier.weight)
    labels = [*classifier.labels, None]  # none of these, where that is a class
    for start in range(0, len(slots), _ROWS):
        part = slots[start : start + _ROWS]
        dots = inverse_norms[part, None] * (rows[part] @ a.T - b)
        logits = torch.from_numpy(dots).float() + classifier.bias
        scores, best = classifier.probabilities(logits).max(dim=1)
        for place, score in zip(best.tolist(), scores.tolist(), strict=True):
            yield (None, None) if labels[place] is None else (labels[place], score)
        if progress is not None:
            progress(start + len(part), len(slots))

"""Labels for all images of an index, and what is said of them by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from headword.classifier import Classifier
from headword.encoders.fingerprint import check_model
from headword.encoders.prompts import check_labels, check_templates
from headword.errors import HeadwordError
from headword.model import DualEncoder
from headword.search.catalogue import BY_HAND, BY_MODEL, NOT_BY_HAND, Corrections, TagRow
from headword.search.manifest import Manifest, publish, writing
from headword.search.rows import Rows
from headword.search.space import Floats, Indices, Space
from headword.search.version import Version

if TYPE_CHECKING:
    from headword.extract import Progress

LIKELY = 0.5
"""The probability from which an image has a label, where it may have several."""

_ROWS = 4096  # rows at a time


class Tagged(NamedTuple):
    """The versions of an index before and after it was tagged."""

    before: Manifest
    after: Manifest


def tag_index(
    folder: Path, model: DualEncoder, classifier: Classifier, *, progress: Progress | None = None
) -> Tagged:
    """Give every image of an index the label that fits it best, as `DualEncoder.classify` would; with a
    `multi_label` classifier all that are likelier than not. What was said by hand stays.

    An index that another process is writing, that was made with another model, or that cannot be written is
    what it was, and the error says so.
    """
    templates = check_templates(classifier.templates or model.templates)
    tags = {
        "labels": list(classifier.encoded().labels),
        "template": list(templates),
        "none_of_these": classifier.none_of_these,
        "multi_label": classifier.multi_label,
    }
    with writing(folder):
        before = Manifest.read(folder)
        check_model(model, before.model, folder)
        version = Version.open(folder, before)
        space, r = version.space(model.aligner), version.inverse_norms
        said = version.corrections()
        given = label_all(classifier, version.slots, version.rows, r, space, said, progress)
        rows = torch.cat([classifier.weight, classifier.bias[:, None]], dim=1).float().numpy()
        taught = rows if len(classifier.examples) else rows[:0]
        facts = {"tags": tags}
        after = publish(
            folder, before, lambda path: version.catalogue.write_retagged(path, given, taught), facts
        )
        return Tagged(before, after)


def correct_tags(folder: Path, said: Mapping[str, Mapping[str, bool]]) -> None:
    """Say by hand which tags images have, and which they have not, by path; labelling keeps to it.

    Where images have one label each, another that is given by hand takes its place.

    Raises:
        HeadwordError: for a path that is not in the index, a tag that is no label, or an index that cannot be
            written.
    """
    for tags in said.values():
        check_labels(list(tags))
    with writing(folder):
        before = Manifest.read(folder)
        version = Version.open(folder, before)
        by_place: dict[int, Corrections] = {}
        for path, tags in said.items():
            place = version.catalogue.place_of(path)
            if place is None:
                raise HeadwordError(f"{path!r} is not in the index {folder}")
            by_place[place] = {tag: BY_HAND if has else NOT_BY_HAND for tag, has in tags.items()}
        settings = before.tags or {}
        one_of = () if settings.get("multi_label") else settings.get("labels", ())
        publish(
            folder, before, lambda path: version.catalogue.write_corrected(path, by_place, one_of), facts={}
        )


def restore_tags(folder: Path, tagged: Tagged) -> None:
    """Give images the tags again that `tag_index` replaced.

    Raises:
        HeadwordError: if the index was changed since then, or cannot be written.
    """
    with writing(folder):
        if Manifest.read(folder).version != tagged.after.version:
            raise HeadwordError("the index was changed since then; its tags of before are not there any more")
        earlier = Version.open(folder, tagged.before)  # whose files stay until the next one
        publish(folder, tagged.after, earlier.catalogue.write, {"tags": tagged.before.tags})


def tagger(model: DualEncoder, tags: dict[str, Any], taught: Floats) -> Classifier:
    """The classifier that an index was tagged by, of words or with what it was taught."""
    classifier = model.classifier(
        tags["labels"],
        templates=tags["template"],
        none_of_these=tags["none_of_these"],
        multi_label=tags.get("multi_label", False),  # an index from before there were several has none
    )
    if len(taught):
        rows = torch.from_numpy(taught).view(len(classifier.classes_), -1)
        classifier.use(rows[:, :-1], rows[:, -1])
    return classifier


def label_all(
    classifier: Classifier | None,
    slots: Indices,
    rows: Rows,
    inverse_norms: Floats,
    space: Space,
    corrections: Mapping[int, Corrections],
    progress: Progress | None = None,
) -> Iterator[list[TagRow]]:
    """The tags of the image in each slot: by a classifier, if there is one, and by hand, by place."""
    if classifier is None:
        for place in range(len(slots)):
            yield _by_hand(corrections.get(place, {}))
        return
    a, b = space.affine(classifier.weight)
    labels = [*classifier.labels, None]  # none of these, where that is a class
    for start in range(0, len(slots), _ROWS):
        part = slots[start : start + _ROWS]
        dots = inverse_norms[part, None] * (rows[part] @ a.T - b)
        chances = classifier.probabilities(torch.from_numpy(dots).float() + classifier.bias)
        for n in range(len(part)):
            if said := corrections.get(start + n):
                _take_out(chances[n], labels, said, one=not classifier.multi_label)
        for n, row in enumerate(_chosen(chances, labels, several=classifier.multi_label)):
            yield row + _by_hand(corrections.get(start + n, {}))
        if progress is not None:
            progress(start + len(part), len(slots))


def _chosen(chances: Tensor, labels: Sequence[str | None], *, several: bool) -> list[list[TagRow]]:
    """The best label of each image, or all that are likely, by their chances `[n, L]`."""
    among = chances >= LIKELY
    if not several:
        among = torch.zeros_like(among).scatter(1, chances.argmax(dim=1, keepdim=True), True)
    rows: list[list[TagRow]] = [[] for _ in chances]
    for (n, place), chance in zip(torch.nonzero(among).tolist(), chances[among].tolist(), strict=True):
        label = labels[place]
        if label is not None and chance > 0:
            rows[n].append((label, chance, BY_MODEL))
    return rows


def _take_out(chances: Tensor, labels: Sequence[str | None], said: Corrections, *, one: bool) -> None:
    """Set the chances `[L]` of one image to 0 where something was said by hand."""
    if one and any(labels.count(tag) for tag, hand in said.items() if hand == BY_HAND):
        chances.zero_()
    for place, label in enumerate(labels[: len(chances)]):
        if label in said:
            chances[place] = 0.0


def _by_hand(said: Corrections) -> list[TagRow]:
    return [(tag, float(hand == BY_HAND), hand) for tag, hand in said.items()]

"""Tasks on places: where labels are, against boxes, and what each pixel is, against masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from headword.data.boxes_and_masks import read_boxes, read_masks
from headword.data.items import Item
from headword.dense.maps import resized
from headword.dense.regions import segment
from headword.encoders.prompts import check_labels
from headword.errors import HeadwordError
from headword.evaluation.protocol import Protocol
from headword.evaluation.subjects import arrival
from headword.evaluation.tasks import Outcome, Task
from headword.extract import Progress
from headword.metrics.localisation import (
    box_overlaps,
    confusion,
    max_box_accuracy,
    points_at,
    segmentation_metrics,
)
from headword.model import DualEncoder

_STEPS, _DECAY = 100, 1e-4  # of the probe


class DenseTask(Task):
    """A task on maps of labels over pictures.

    Raises:
        HeadwordError: as `Task`; also for a setting that is none of its own.
    """

    images: tuple[Item, ...]
    names: tuple[str, ...]

    def pictures(self, size: int, progress: Progress | None) -> Iterator[tuple[int, Image.Image]]:
        """The place of each picture that can be read, and it at a size or larger; fills `skipped`."""
        self.skipped: dict[int, str] = {}
        for n, item in enumerate(self.images):
            try:
                picture = item.read(size)
            except HeadwordError as error:
                self.skipped[n] = str(error)
                continue
            yield n, picture
            if progress is not None:
                progress(n + 1, len(self.images))
        if len(self.skipped) == len(self.images):
            raise HeadwordError(f"none of {len(self.images)} images could be read: {self.skipped[0]}")

    def maps(self, model: DualEncoder, progress: Progress | None) -> Iterator[tuple[int, Tensor]]:
        """The place of each picture that can be read, and its map `[C, h, w]`; fills `skipped`."""
        templates = self.protocol.templates or model.templates
        words = model.encode_text(check_labels(list(self.names)), templates=templates)
        size = model.locator.size(None)
        for n, picture in self.pictures(size, progress):
            yield n, model.locator.map(picture, words, size, refine=True)

    def outcome(
        self, model: DualEncoder, metrics: dict[str, float], metric: str, notes: Iterable[str]
    ) -> Outcome:
        """What there is to say of a model."""
        settled = self.protocol.replace(
            class_names=self.names,
            templates=self.protocol.templates or model.templates,
            metric=self.protocol.metric or metric,
        )
        read = len(self.images) - len(self.skipped)
        data = {"source": self.protocol.data, "images": read, "classes": len(self.names)}
        data["skipped"] = list(self.skipped.values())
        exact = "" if model.locator.exact else "places are approximate: features are no mean over places"
        return Outcome(model, settled, metrics, data, tuple(note for note in (exact, *notes) if note))


class Localisation(DenseTask):
    """Where each label is that a picture has: the pointing game (the share of hits, and its mean over labels)
    and MaxBoxAccV2 (`headword.metrics.localisation`).
    """

    def __init__(self, protocol: Protocol) -> None:
        super().__init__(protocol)
        data = read_boxes(protocol.data)
        self.images, self.boxes, self.names = data.images, data.boxes, data.names

    def measure(self, model: DualEncoder, progress: Progress | None = None) -> Outcome:
        """See `Task`."""
        hits: dict[str, list[bool]] = {}
        overlaps = []
        for n, shares in self.maps(model, progress):
            for label, boxes in self.boxes[n].items():
                one = shares[self.names.index(label)]
                hits.setdefault(label, []).append(points_at(one, boxes))
                overlaps.append(box_overlaps(one, boxes))
        by_label = [fmean(of) for of in hits.values()]
        metrics = {"pointing": 100 * fmean(hit for of in hits.values() for hit in of)}
        metrics |= {"pointing_mean_per_label": 100 * fmean(by_label)}
        metrics |= max_box_accuracy(torch.stack(overlaps))
        outcome = self.outcome(model, metrics, "pointing", ())
        outcome.data["labels_in_images"] = len(overlaps)
        return outcome


class Segmentation(DenseTask):
    """What each pixel is, by the words alone: of all labels, and of those that are in the picture.

    With `Protocol.probe`, by a linear layer on the features of places instead, trained on half of the
    pictures, drawn with the seed, and tested on the others.
    """

    def __init__(self, protocol: Protocol) -> None:
        super().__init__(protocol)
        data = read_masks(protocol.data)
        self.images, self.masks = data.images, data.masks
        self.names = protocol.class_names or data.names
        if len(self.names) != len(data.names):
            raise HeadwordError(f"{len(self.names)} class names for {len(data.names)} classes of masks")

    def measure(self, model: DualEncoder, progress: Progress | None = None) -> Outcome:
        """See `Task`."""
        if self.protocol.probe:
            return self._probed(model, progress)
        classes = len(self.names)
        counts = {"all": torch.zeros(classes, classes), "present": torch.zeros(classes, classes)}
        for n, shares in self.maps(model, progress):
            truth = self.masks[n]()
            present = torch.unique(truth[truth >= 0])
            if not len(present):
                continue
            counts["all"] += confusion(truth, segment(shares, *truth.shape), classes)
            labels = present[segment(shares[present], *truth.shape)]
            counts["present"] += confusion(truth, labels, classes)
        metrics = segmentation_metrics(counts["present"])
        metrics |= {f"{name}_of_all": value for name, value in segmentation_metrics(counts["all"]).items()}
        note = "miou and pixel_accuracy choose among the labels in a picture, …_of_all among all"
        return self.outcome(model, metrics, "miou", (note,))

    def _probed(self, model: DualEncoder, progress: Progress | None) -> Outcome:
        """By a linear layer on the features of places."""
        pictures = self.pictures(model.locator.size(None), progress)
        cells = {n: model.locator.features(picture) for n, picture in pictures}
        if len(cells) < 2:
            raise HeadwordError("a probe needs two pictures with masks at least, one to test on")
        order = [n for n in arrival(len(self.images), self.protocol.seed).tolist() if n in cells]
        half = len(order) // 2
        train, test = ([(cells[n], self.masks[n]()) for n in some] for some in (order[:half], order[half:]))
        counts = probe_places(train, test, len(self.names))
        note = f"a linear layer on features of places, trained on {half} pictures and tested on the others"
        return self.outcome(model, segmentation_metrics(counts), "miou", (note,))


def probe_places(
    train: Sequence[tuple[Tensor, Tensor]], test: Iterable[tuple[Tensor, Tensor]], classes: int
) -> Tensor:
    """A linear layer on frozen features of places: how it labels the pixels of other pictures, `[C, C]`.

    A place is taught the shares of classes in its part of the mask.

    Args:
        train: of each picture the features `[d, h, w]`, and the mask `[H, W]` of classes, negative for none.
        test: other pictures.
        classes: C.
    """
    rows = torch.cat([cells.flatten(1).T for cells, _ in train])
    targets = torch.cat([_class_shares(mask, classes, cells.shape[1:]).flatten(1).T for cells, mask in train])
    mean, deviation = rows.mean(dim=0), rows.std(dim=0).clamp_min(1e-6)
    rows = (rows - mean) / deviation
    weight = torch.zeros(classes, rows.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        chances = torch.log_softmax(rows @ weight.T + bias, dim=1)
        value = -(targets * chances).sum() / targets.sum() + _DECAY * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    counts = torch.zeros(classes, classes)
    with torch.inference_mode():
        for cells, mask in test:
            unit = (cells - mean[:, None, None]) / deviation[:, None, None]
            logits = torch.einsum("cd,dhw->chw", weight, unit) + bias[:, None, None]
            counts += confusion(mask, resized(logits, *mask.shape).argmax(dim=0), classes)
    return counts


def _class_shares(mask: Tensor, classes: int, grid: Sequence[int]) -> Tensor:
    """How much of each place of a grid each class of a mask fills: `[C, h, w]`."""
    each = torch.stack([mask == n for n in range(classes)]).float()
    return F.adaptive_avg_pool2d(each[None], (grid[0], grid[1]))[0]

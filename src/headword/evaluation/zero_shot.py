"""Zero-shot classification: each image gets the class whose name is nearest."""

from __future__ import annotations

from headword.evaluation.protocol import Protocol
from headword.evaluation.task import LabelledTask, Outcome, check_spoken, kept_labels
from headword.extract import Progress, extract
from headword.metrics import check_k, classification_metrics
from headword.model import DualEncoder
from headword.scoring.transductive import OFF, label_shares, read_prior

TOP = (1, 5)
METRIC = "mean_per_class"


class ZeroShot(LabelledTask):
    """Top-k and mean per-class accuracy with class names alone.

    Raises:
        HeadwordError: as `Task`; also if a name says nothing or is given twice, or a k is too large.
    """

    def __init__(self, protocol: Protocol) -> None:
        super().__init__(protocol)
        names = self.data.names
        check_spoken(self.data)
        self.k = protocol.k or tuple(k for k in TOP if k < len(names) or k == 1)
        check_k(self.k, len(names), "classes")
        self.prior = None if protocol.prior is None else read_prior(protocol.prior)
        self.shares = None if self.prior is None else label_shares(self.prior, names)

    def measure(self, model: DualEncoder, progress: Progress | None = None) -> Outcome:
        """See `Task`."""
        method, templates = self.protocol.collection, self.templates(model)
        tested = extract(model.vision, self.data.images, progress=progress)
        labels = kept_labels(self.data, tested)
        model, notes = self.centred(model, tested.features, progress=progress)
        classifier = model.classifier(self.data.names, templates=templates)
        embeddings = self.encode_images(model, tested.features)
        logits = classifier.logits(embeddings, collection=method, prior=self.prior)
        if method != OFF:
            notes = (*notes, f"transductive: {method} labels the whole collection at once")
        metrics = classification_metrics(logits, labels, self.k)
        metric = self.protocol.metric or METRIC
        outcome = self.outcome(model, tested, metrics, notes, k=self.k, templates=templates, metric=metric)
        if self.shares is not None:
            outcome.data["prior"] = self.shares.tolist()
        return outcome

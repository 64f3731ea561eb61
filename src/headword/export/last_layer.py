"""Labels as weights of the classifier's own last layer."""

from __future__ import annotations

import torch
from torch import Tensor

from headword.errors import HeadwordError
from headword.export.graph import LinearClassifier, ModelParts


def last_layer(classifier: LinearClassifier, features: Tensor | None = None) -> Tensor:
    """Weights `[L, d]` of a head without bias, whose first label is the classifier's whatever the picture.

    With x̂ = x/‖x‖ the features, c the centre, M the image side's matrix, w_l and b_l the classifier's rows
    and intercepts, and n = ‖(x̂ − c) M‖, a logit is w_l·(x̂ − c) M / n + b_l. Times ‖x‖ n, which changes no
    order, it is (w_l Mᵀ)·x + ‖x‖ (−w_l Mᵀ·c) + ‖x‖ n b_l: linear in x but for what ‖x‖ and n multiply, which
    must therefore be the same for all labels.

    Args:
        classifier: of words, for one choice among them.
        features: `[N, d]` of pictures, by which a refusal says how near a plain head would come.

    Raises:
        HeadwordError: if there is no such head, and why.
    """
    model: ModelParts = classifier.model
    head, _ = model.vision.named_head()
    if len(head.modules) > 1:
        raise HeadwordError(
            f"{model.vision.name} has {len(head.modules)} last layers ({head.where}), whose outputs are "
            "averaged: there is no one layer for the labels; export to onnx"
        )
    if classifier.multi_label:
        raise HeadwordError(
            "with multi_label a label holds from a cosine on, and a plain head does not know how long a "
            "picture's features are; export to onnx, or without multi_label"
        )
    rows, intercept = torch.tensor(classifier.coef_).double(), torch.tensor(classifier.intercept_).double()
    aligner = model.aligner
    weight = rows @ aligner.image_matrix().double().T  # [L, d]
    centred = -weight @ aligner.centre_.double()
    reasons = []
    if _differ(centred, weight):
        reasons.append("the model is centred on pictures, so export one made without a centre")
    if _differ(intercept, rows):
        reasons.append("its labels have intercepts of their own (none of these, or taught examples)")
    if not reasons:
        return weight.float()
    why = " and ".join(reasons)
    near = "; give pictures (--calibration FOLDER) to see how near one would come"
    if features is not None:
        share = _best_agreement(classifier, weight, centred, features)
        near = f"; on these {len(features):,} pictures the best one has the same first label for {share:.1%}"
    raise HeadwordError(
        f"no plain head has this model's first label for every picture: {why}, or to onnx{near}"
    )


def _differ(values: Tensor, rows: Tensor) -> bool:
    """Whether they are not one value for all labels, on the scale of the rows."""
    return bool(values.max() - values.min() > 1e-6 * rows.norm(dim=1).max())


def _best_agreement(classifier: LinearClassifier, weight: Tensor, centred: Tensor, features: Tensor) -> float:
    """The share of pictures whose first label is kept, by the best typical length of the features."""
    aligner = classifier.model.aligner
    embeddings = aligner.image(features.to(aligner.centre_)).double()
    intercept = torch.tensor(classifier.intercept_).double()
    first = (embeddings @ torch.tensor(classifier.coef_).double().T + intercept).argmax(dim=1)
    features = features.double()
    length = features.norm(dim=1)
    mapped = (features / length[:, None] - aligner.centre_.double()) @ aligner.image_matrix().double()
    spread = torch.linspace(0.1, 0.9, 9).double()
    typical = zip(length.quantile(spread), (length * mapped.norm(dim=1)).quantile(spread), strict=True)
    shares = [
        (features @ weight.T + r * centred + n * intercept).argmax(dim=1).eq(first).double().mean()
        for r, n in typical
    ]
    return float(torch.stack(shares).max())

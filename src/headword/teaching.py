"""Classifiers that were taught, from their folders."""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from headword.classifier import Classifier
from headword.classifier.folder import SavedClassifier, read_classifier
from headword.encoders.fingerprint import check_model
from headword.errors import HeadwordError
from headword.model import DualEncoder, load
from headword.scoring.centring import Centre


def load_classifier(
    folder: str | os.PathLike[str] | SavedClassifier,
    *,
    model: DualEncoder | str | os.PathLike[str] | None = None,
    **options: Any,
) -> Classifier:
    """Load a classifier that `Classifier.save` or `headword teach` wrote.

    Its `model` is the given one, or the one it names, centred as the classifier was when it was taught (a
    copy; the given model stays as it is).

    Args:
        folder: the classifier's, or what was read of it.
        model: the model it was made with, or its folder, where the classifier does not name it or it moved.
        **options: of `headword.load`, where the model is loaded here.

    Raises:
        HeadwordError: if the folder is no classifier, was changed, or belongs to another model.
    """
    saved = folder if isinstance(folder, SavedClassifier) else read_classifier(Path(folder))
    loaded = model if isinstance(model, DualEncoder) else load(model or model_folder(saved), **options)
    check_model(loaded, saved.model, saved.folder, but_centre=True, mend="teach a classifier anew")
    classifier = Classifier(around(loaded, saved.centre_vector, saved.centre), **saved.parameters)
    if len(saved.examples):
        classifier.examples_ = saved.examples
    # As they were saved: the same to the last bit, and nothing to learn again.
    classifier.use(**saved.weights)
    return classifier


def around(model: DualEncoder, vector: Tensor, centre: Centre) -> DualEncoder:
    """A model around another centre `[d]`; the given one stays as it is, and shares its encoders."""
    aligner = copy.deepcopy(model.aligner)
    aligner.centre_ = vector.to(aligner.centre_)
    return replace(model, aligner=aligner, centre=centre)


def model_folder(classifier: SavedClassifier) -> Path:
    """Where the model of a saved classifier lies.

    Raises:
        HeadwordError: if the classifier does not name its model, or that is not there.
    """
    named = classifier.model["folder"]
    if named is None:
        raise HeadwordError(f"{classifier.folder} does not name the model it was made with; give it: model=…")
    if not Path(named).is_dir():
        raise HeadwordError(
            f"{classifier.folder} was made with the model at {named}, which is not there by now; say where "
            "it is: model=…"
        )
    return Path(named)

"""headword among scikit-learn's own: pipelines, searches, calibration."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

from headword.errors import HeadwordError
from headword.sklearn import ImageEmbedder
from support.extraction import draw
from support.indexing import tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[str]:
    root = tmp_path_factory.mktemp("drawn")
    return [str(draw(root / f"{n}.png", n % 2)) for n in range(12)]


def test_embeddings_are_the_model_s(model, paths, tmp_path):
    embedder = ImageEmbedder(model).fit(paths)
    np.testing.assert_array_equal(embedder.transform(paths), model.encode_image(paths).numpy())
    features = ImageEmbedder(model, space="features")
    np.testing.assert_array_equal(features.fit_transform(paths), model.image_features(paths).numpy())
    assert len(embedder.get_feature_names_out()) == model.dim
    assert clone(embedder).model is model
    with pytest.raises(HeadwordError, match="choose shared or features"):
        ImageEmbedder(model, space="pixels").fit()
    with pytest.raises(HeadwordError, match="no saved model"):
        ImageEmbedder(tmp_path / "nothing").fit()


def test_a_saved_model_by_its_folder(saved, embedded, pictures):
    path = [pictures["cat"]]
    got = ImageEmbedder(saved).fit().transform(path)
    np.testing.assert_array_equal(got, embedded.encode_image(path).numpy())


def test_pipeline_search_and_calibration(model, paths):
    y = [n % 2 for n in range(len(paths))]
    pipeline = make_pipeline(ImageEmbedder(model), LogisticRegression(C=100))
    assert pipeline.fit(paths, y).score(paths, y) == 1.0
    grid = {"imageembedder__space": ["shared", "features"], "logisticregression__C": [1, 100]}
    search = GridSearchCV(pipeline, grid, cv=3, error_score="raise").fit(paths, y)
    assert search.best_score_ == 1.0
    calibrated = CalibratedClassifierCV(pipeline, cv=2).fit(paths, y)
    assert calibrated.predict(paths).tolist() == y


@pytest.mark.parametrize("labels", [["an elk", "ant", "bee"], ["ant", "bee"]])
def test_words_that_are_taught_in_search_and_calibration(model, labels):
    random = np.random.default_rng(0)
    y = [labels[n % len(labels)] for n in range(36)]
    features = random.random((36, 16)) + 2 * np.eye(16)[np.arange(36) % len(labels)]
    features = features.astype(np.float32)
    classifier = model.classifier(labels)
    grid = {"templates": ["{}", "a photo of {}"], "none_of_these": [False, True]}
    search = GridSearchCV(classifier, grid, cv=3, error_score="raise").fit(features, y)
    assert search.best_score_ > 0.9
    calibrated = CalibratedClassifierCV(classifier, cv=3).fit(features, y)
    assert calibrated.predict(features).tolist() == y
    assert make_pipeline("passthrough", classifier).fit(features, y).score(features, y) == 1.0
    if len(labels) == 2:
        logits = classifier.image_logits(features)
        np.testing.assert_array_equal(classifier.decision_function(features), logits[:, 1] - logits[:, 0])


@pytest.mark.parametrize("labels", [["bee", "an elk", "ant"], ["bee", "ant"]])
@pytest.mark.parametrize("scoring", ["neg_log_loss", "roc_auc_ovr", "roc_auc_ovr_weighted"])
def test_scorers_read_the_columns_of_labels_in_any_order(model, labels, scoring):
    random = np.random.default_rng(0)
    y = np.array([labels[n % len(labels)] for n in range(36)])
    features = random.random((36, 16)) + 2 * np.eye(16)[np.arange(36) % len(labels)]
    features = features.astype(np.float32)
    classifier = model.classifier(labels)
    by_hand = model.classifier(sorted(labels))
    scores = [
        cross_val_score(one, features, y, scoring=scoring, cv=3, error_score="raise")
        for one in (classifier, by_hand)
    ]
    np.testing.assert_allclose(*scores, atol=1e-5)
    assert scores[0].min() > (-0.5 if scoring == "neg_log_loss" else 0.95)
    search = GridSearchCV(classifier, {"templates": ["{}", "a photo of {}"]}, scoring=scoring, cv=3)
    assert search.fit(features, y).best_estimator_.classes_.tolist() == sorted(labels)
    for method in ("sigmoid", "isotonic"):
        calibrated = CalibratedClassifierCV(classifier, method=method, cv=3).fit(features, y)
        assert (calibrated.predict(features) == y).all()
        assert get_scorer(scoring)(calibrated, features, y) > (-0.5 if scoring == "neg_log_loss" else 0.95)
    assert classifier.classes_.tolist() == labels

"""Words as a classifier, with scikit-learn's interface."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from sklearn import base, metrics
from sklearn.utils import estimator_checks, get_tags

from headword.classifier import Classifier
from headword.errors import HeadwordError
from headword.scoring.calibration import Scores

LABELS = ["a cat", "a cup of coffee", "a rocket launch", "a motorcycle"]
ORDER = ["cat", "coffee", "rocket", "motorcycle"]

_WORDS = "the labels are words, settled before fit: y names them, and predict answers in words"
_MODEL = "what it is given is pictures or features, and its model refuses what cannot be read"
_READY = "words alone make it ready"
NOT_APPLICABLE = {
    "check_classifier_data_not_an_array": _WORDS,
    "check_classifiers_classes": _WORDS,
    "check_classifiers_one_label": _WORDS,
    "check_classifiers_regression_target": _WORDS,
    "check_classifiers_train": _WORDS,
    "check_complex_data": _WORDS,
    "check_decision_proba_consistency": _WORDS,
    "check_dont_overwrite_parameters": "what follows from the parameters is kept by its own name",
    "check_dtype_object": _WORDS,
    "check_estimator_sparse_array": _MODEL,
    "check_estimator_sparse_matrix": _MODEL,
    "check_estimator_sparse_tag": _MODEL,
    "check_estimators_empty_data_messages": _MODEL,
    "check_estimators_nan_inf": _MODEL,
    "check_estimators_partial_fit_n_features": _WORDS,
    "check_estimators_pickle": _WORDS,
    "check_estimators_unfitted": _READY,
    "check_fit1d": _MODEL,
    "check_fit2d_predict1d": _MODEL,
    "check_fit_check_is_fitted": _READY,
    "check_fit_idempotent": _WORDS,
    "check_methods_sample_order_invariance": _WORDS,
    "check_methods_subset_invariance": _WORDS,
    "check_n_features_in": _MODEL,
    "check_n_features_in_after_fitting": _MODEL,
    "check_requires_y_none": "mistakes are HeadwordErrors",
    "check_supervised_y_2d": _WORDS,
    "check_supervised_y_no_nan": _WORDS,
}
"""scikit-learn's checks that do not apply, and why. All others must hold."""


@pytest.fixture(scope="module")
def features(embedded, pictures):
    return embedded.image_features([pictures[name] for name in ORDER])


def test_pictures_get_their_words(embedded, features, pictures):
    classifier = embedded.classifier(LABELS)
    assert classifier.predict(features).tolist() == LABELS == classifier.classes_.tolist()
    assert classifier.predict([pictures["cat"]]).tolist() == ["a cat"]
    assert classifier.score(features, LABELS) == 1.0
    assert classifier.score(features, [*LABELS[:3], "a cat"]) == 0.75


@pytest.mark.parametrize("options", [{}, {"none_of_these": True}, {"multi_label": True}])
def test_linear_in_the_shared_space(embedded, features, options):
    classifier = embedded.classifier(LABELS, **options)
    L = len(LABELS) + len(options.get("none_of_these", False) * ["none"])
    assert classifier.coef_.shape == (L, embedded.dim)
    assert classifier.intercept_.shape == classifier.classes_.shape == (L,)
    logits = embedded.encode_image(features).numpy() @ classifier.coef_.T + classifier.intercept_
    np.testing.assert_allclose(classifier.decision_function(features), logits, atol=1e-5)
    chances = classifier.predict_proba(features)
    assert chances.dtype == np.float32
    np.testing.assert_array_equal(embedded.classify(features, LABELS, **options).numpy(), chances)
    if "multi_label" in options:
        np.testing.assert_allclose(chances, 1 / (1 + np.exp(-logits)), atol=1e-6)
        np.testing.assert_array_equal(classifier.predict(features), (chances >= 0.5).astype(int))
        assert classifier.score(features, np.eye(4)) <= 1.0
    else:
        np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-6)
        assert (classifier.predict(features) == classifier.classes_[chances.argmax(axis=1)]).all()


def test_probabilities_are_of_the_model_s_scale_and_threshold(embedded, features):
    cosines = embedded.cosines(features, LABELS)
    scores = embedded.scores
    chances = embedded.classify(features, LABELS)
    torch.testing.assert_close(chances, (scores.scale * cosines).softmax(dim=1))
    chances = embedded.classify(features, LABELS, multi_label=True)
    torch.testing.assert_close(chances, (scores.sigmoid_scale * (cosines - scores.threshold)).sigmoid())


class Stub:
    """A model whose pictures and labels are what they are embedded to."""

    templates = ("{}",)
    scores = Scores(scale=1.0, sigmoid_scale=1.0, threshold=0.2)

    def encode_text(self, texts, **_options):
        return torch.eye(len(texts))

    def encode_image(self, images, **_options):
        return images


class Arrays(Stub):
    """A model of pictures that are rows of numbers, of any width."""

    def encode_text(self, texts, **_options):
        return torch.eye(len(texts), 8)

    def encode_image(self, images, **_options):
        rows = self.image_features(images)[:, :7]
        return torch.nn.functional.normalize(torch.nn.functional.pad(rows, (1, 7 - rows.shape[1])), dim=1)

    def image_features(self, images):
        return torch.from_numpy(np.array(images, dtype=np.float32))


def test_none_of_these_needs_no_scale():
    classifier = Classifier(Stub(), ["a", "b"], none_of_these=True)
    embeddings = torch.tensor([[0.1, 0.0], [0.3, 0.0]])
    assert classifier.predict(embeddings).tolist() == ["none of these", "a"]
    assert classifier.cosines(embeddings).tolist() == embeddings.tolist()


def test_templates_and_the_whole_collection(embedded, features):
    classifier = embedded.classifier(LABELS, templates="a painting of {}")
    words = embedded.encode_text(LABELS, templates="a painting of {}")
    torch.testing.assert_close(classifier.label_vectors, words)
    chances = embedded.classifier(LABELS).predict_proba(features, collection="sinkhorn", prior="uniform")
    np.testing.assert_allclose(chances.mean(axis=0), 0.25, atol=1e-4)


@pytest.mark.parametrize(
    ("labels", "options", "match"),
    [
        ([], {}, "the list of labels is empty"),
        (["a", "a"], {}, "give each once"),
        ("a,b", {}, "must be a list"),
        (["a"], {"templates": "no place"}, "exactly one"),
        (["a"], {"multi_label": True, "none_of_these": True}, "exclude each other"),
    ],
)
def test_mistakes_are_told_when_it_is_made(embedded, labels, options, match):
    with pytest.raises(HeadwordError, match=match):
        embedded.classifier(labels, **options)


# ---- as scikit-learn has it


@pytest.mark.filterwarnings("ignore")
def test_scikit_learn_s_checks():
    classifier = Classifier(Arrays(), ["an ant", "a bee", "an elk"])
    results = estimator_checks.check_estimator(
        classifier, expected_failed_checks=NOT_APPLICABLE, on_fail=None, on_skip=None
    )
    failed = {one["check_name"]: one["exception"] for one in results if one["status"] == "failed"}
    assert not failed
    passed = [one["check_name"] for one in results if one["status"] == "passed"]
    assert len(passed) > 20
    assert {one["check_name"] for one in results if one["status"] == "xfail"} == set(NOT_APPLICABLE)


def test_scikit_learn_takes_it_for_a_classifier(embedded, features):
    classifier = embedded.classifier(LABELS)
    assert base.is_classifier(classifier)
    assert get_tags(embedded.classifier(LABELS, multi_label=True)).classifier_tags.multi_label
    assert metrics.get_scorer("accuracy")(classifier, features, LABELS) == 1.0
    assert metrics.get_scorer("neg_log_loss")(classifier, features, LABELS) < 0


def test_a_clone_shares_the_model_and_new_settings_count(embedded):
    classifier = embedded.classifier(LABELS)
    other = base.clone(classifier)
    assert other is not classifier
    assert other.model is embedded
    order = classifier.classes_.argsort()  # scikit-learn reads columns by sorted labels
    np.testing.assert_array_equal(other.coef_, classifier.coef_[order])
    assert other.classes_.tolist() == sorted(LABELS)
    assert other.set_params(labels=["a dog", "a bird"]) is other
    assert other.coef_.shape == (2, embedded.dim)
    with pytest.raises(ValueError, match="no parameter 'tau'"):
        other.set_params(tau=1)
    assert list(inspect.signature(Classifier).parameters) == list(other.get_params())

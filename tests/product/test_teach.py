"""A classifier of words that pictures teach."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import headword
from headword.classifier import Classifier
from headword.errors import HeadwordError
from headword.scoring.calibration import Scores
from headword.scoring.logistic import TOLERANCE, regress, residuals, span
from headword.scoring.suggestions import METHODS, suggest
from headword.scoring.trust import trust

LABELS = ["ant", "bee", "elk"]
D = 40


class Space:
    """A model whose pictures are features, and whose words are near the middle of their kind."""

    templates = ("{}",)
    scores = Scores(scale=20.0, sigmoid_scale=15.0, threshold=0.2)

    def __init__(self, seed=0, words=0.2):
        generator = torch.Generator().manual_seed(seed)
        self.kinds = F.normalize(torch.randn(8, D, generator=generator), dim=1)
        self.noise = F.normalize(torch.randn(8, D, generator=generator), dim=1)
        self.share = words

    def encode_text(self, texts, **_options):
        places = [(["ant", "bee", "elk", "owl"].index(text)) for text in texts]
        return F.normalize(self.share * self.kinds[places] + (1 - self.share) * self.noise[places], dim=1)

    def image_features(self, images):
        return images

    def encode_image(self, images, **_options):
        return F.normalize(images, dim=1)

    def drawn(self, count, labels=3, seed=1):
        """`count` pictures of each kind, and their places."""
        generator = torch.Generator().manual_seed(seed)
        y = torch.arange(labels).repeat_interleave(count)
        return self.kinds[y] + 0.3 * torch.randn(len(y), D, generator=generator), y


@pytest.fixture
def space():
    return Space()


@pytest.fixture
def classifier(space):
    return Classifier(space, list(LABELS))


# ---- the regression


@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("penalty", [0.01, 0.3])
def test_the_optimum_is_the_one_that_gradient_descent_finds(space, independent, penalty):
    X, y = space.drawn(6)
    X, words = space.encode_image(X), space.encode_text(LABELS)
    judged = 2 * F.one_hot(y).to(torch.int8) - 1 if independent else F.one_hot(y).to(torch.int8)
    Z, M = span(X)
    torch.testing.assert_close(Z @ M.T, X, atol=1e-5, rtol=0)
    B = regress(5 * X @ words.T, Z, judged, penalty, independent=independent)[0]
    found = 5 * words + B @ M.T

    W = (5 * words).double().requires_grad_()
    solver = torch.optim.LBFGS([W], max_iter=2000, tolerance_grad=1e-9, tolerance_change=0,
                               line_search_fn="strong_wolfe")  # fmt: skip

    def loss():
        solver.zero_grad()
        logits = X.double() @ W.T
        fit = F.binary_cross_entropy_with_logits(logits, (judged > 0).double(), reduction="sum")
        fit = fit if independent else F.cross_entropy(logits, y, reduction="sum")
        value = fit + penalty / 2 * (W - 5 * words.double()).square().sum()
        value.backward()
        return value

    solver.step(loss)
    assert float((found - W.detach()).norm()) <= 1.1 * TOLERANCE / penalty + 1e-4


def test_problems_that_differ_in_what_counts_are_solved_together(space):
    X, y = space.drawn(5)
    X, words = space.encode_image(X), space.encode_text(LABELS)
    Z, _ = span(X)
    judged, offsets = F.one_hot(y).to(torch.int8), 8 * X @ words.T
    whole = regress(offsets, Z, judged, 0.1)[0]
    counted = torch.ones(3, len(y))
    counted[0, 0] = counted[1, 7:9] = 0
    together = regress(offsets, Z, judged, 0.1, counted=counted, start=whole)
    torch.testing.assert_close(together[2], whole, atol=0.02, rtol=0)
    for row, out in enumerate(([0], [7, 8])):
        kept = [n for n in range(len(y)) if n not in out]
        alone = regress(offsets[kept], Z[kept], judged[kept], 0.1)[0]
        torch.testing.assert_close(together[row], alone, atol=0.02, rtol=0)


def test_gradients_of_every_kind_of_judgement():
    generator = torch.Generator().manual_seed(0)
    judged = torch.tensor([[1, 0, 0], [0, -1, 0], [-1, -1, -1], [0, 0, 0], [0, 1, -1]], dtype=torch.int8)
    possible = torch.tensor([[1, 0, 0], [1, 0, 1], [1, 1, 1], [1, 1, 1], [0, 1, 0]], dtype=torch.bool)
    logits = torch.randn(5, 3, generator=generator).requires_grad_()
    one_of = logits.logsumexp(dim=1) - logits.masked_fill(~possible, -torch.inf).logsumexp(dim=1)
    known, has = judged != 0, (judged > 0).float()
    apart = F.binary_cross_entropy_with_logits(logits, has, reduction="none") * known
    for independent, loss in ((False, one_of), (True, apart)):
        (expected,) = torch.autograd.grad(loss.sum(), logits)
        torch.testing.assert_close(residuals(judged, independent=independent)(logits.detach()), expected)


@pytest.mark.parametrize("independent", [False, True])
def test_the_stated_gradient_norm_holds_in_float64(independent):
    generator = torch.Generator().manual_seed(3)
    y = torch.arange(600) % 40
    rows = torch.randn(40, 96, generator=generator)[y] + 1.5 * torch.randn(600, 96, generator=generator)
    X = F.normalize(rows, dim=1)
    words = F.normalize(torch.randn(40, 96, generator=generator), dim=1)
    has = F.one_hot(y).to(torch.int8)
    Z, _ = span(X)
    offsets = 15 * X @ words.T
    B = regress(offsets, Z, 2 * has - 1 if independent else has, 0.004, independent=independent)[0].double()
    logits = offsets.double() + Z.double() @ B.T
    chances = logits.sigmoid() if independent else logits.softmax(dim=1)
    assert float(((chances - has).T @ Z.double() + 0.004 * B).norm()) <= 1.1 * TOLERANCE


# ---- a taught classifier


def test_pictures_mend_what_words_get_wrong(space, classifier):
    tests, truth = space.drawn(60, seed=9)
    before = classifier.score(tests, classifier.classes_[truth])
    for count in (1, 2, 8):
        X, y = space.drawn(count)
        classifier.fit(X, classifier.classes_[y])
        after = classifier.score(tests, classifier.classes_[truth])
        assert after > before + 0.1
    assert after > 0.85
    assert classifier.accuracy_ == pytest.approx(after, abs=0.15)


def test_added_is_as_fitted_at_once_and_forgotten_as_never_seen(space, classifier):
    X, y = space.drawn(4)
    names = [f"{n}.jpg" for n in range(len(y))]
    whole = Classifier(space, LABELS).fit(X, y.tolist(), names=names)
    classifier.fit(X[:5], y[:5].tolist(), names=names[:5])
    part = classifier.coef_.copy()
    classifier.partial_fit(X[5:], y[5:].tolist(), names=names[5:])
    np.testing.assert_allclose(classifier.coef_, whole.coef_, atol=1e-5)
    np.testing.assert_allclose(classifier.forget(names[5:]).coef_, part, atol=1e-5)
    words = Classifier(space, LABELS).coef_
    np.testing.assert_array_equal(classifier.forget(range(5)).coef_, words)
    assert classifier.accuracy_ is None
    with pytest.raises(HeadwordError, match=r"no example '6.jp'; did you mean"):
        whole.forget(["6.jp"])


def test_another_answer_replaces_the_first(space, classifier):
    X, y = space.drawn(4)
    wrong = ["bee", *classifier.classes_[y][1:]]
    right = Classifier(space, LABELS).fit(X, y.tolist())
    classifier.fit(X, wrong).partial_fit(X[:1], ["ant"])
    assert len(classifier.examples_) == len(y)
    np.testing.assert_allclose(classifier.coef_, right.coef_, atol=1e-5)


def test_a_label_that_is_wrong_says_something(space, classifier):
    X, y = space.drawn(3)
    classifier.fit(X[1:], y[1:].tolist())
    likely = classifier.predict(X[:1])[0]
    before = classifier.predict_proba(X[:1])[0, LABELS.index(likely)]
    classifier.partial_fit(X[:1], [likely], wrong=True)
    assert classifier.predict_proba(X[:1])[0, LABELS.index(likely)] < before
    for label in LABELS:  # none of them is left: the picture says nothing
        classifier.partial_fit(X[:1], [label], wrong=True)
    assert np.isfinite(classifier.coef_).all()


def test_new_labels_start_at_their_words_and_cost_nothing(space, classifier):
    X, y = space.drawn(6, labels=4)
    known = y < 3
    classifier.fit(X[known], y[known].tolist()).add_labels(["owl"])
    assert classifier.classes_.tolist() == [*LABELS, "owl"]
    assert classifier.unseen_ == ["owl"]
    assert (classifier.predict(X[known]) == classifier.classes_[y[known]]).mean() > 0.8
    classifier.partial_fit(X[~known], ["owl"] * int((~known).sum()))
    assert classifier.unseen_ == []
    assert (classifier.predict(X) == classifier.classes_[y]).all()


def test_none_of_these_is_taught_too(space):
    X, y = space.drawn(8, labels=4)
    names = [*LABELS, "none of these"]
    classifier = Classifier(space, LABELS, none_of_these=True).fit(X, [names[n] for n in y])
    tests, truth = space.drawn(20, labels=4, seed=5)
    assert classifier.score(tests, [names[n] for n in truth]) > 0.75
    assert classifier.coef_.shape == (4, D)
    classifier.add_labels(["owl"])
    assert classifier.classes_.tolist() == [*LABELS, "owl", "none of these"]
    assert (classifier.examples_.judged[y == 3, -1] == 1).all()


def test_several_labels(space):
    X, y = space.drawn(10)
    both = X[:10] + X[10:20]
    pictures = torch.cat([X, both])
    rows = torch.cat([F.one_hot(y), torch.tensor([[1, 1, 0]]).expand(10, 3)])
    lists = [[label for label, has in zip(LABELS, row, strict=True) if has] for row in rows.tolist()]
    by_rows = Classifier(space, LABELS, multi_label=True).fit(pictures, rows.numpy())
    by_names = Classifier(space, LABELS, multi_label=True).fit(pictures, lists)
    np.testing.assert_array_equal(by_rows.coef_, by_names.coef_)
    assert by_rows.score(pictures, rows.numpy()) > 0.9
    assert by_rows.accuracy_ > 0.6


def test_chances_are_as_often_right_as_they_say(space, classifier):
    generator = torch.Generator().manual_seed(3)
    tests, truth = space.drawn(300, seed=9)
    tests = tests + 0.3 * torch.randn(tests.shape, generator=generator)
    X, y = space.drawn(30, seed=4)
    X = X + 0.3 * torch.randn(X.shape, generator=generator)
    chances = classifier.fit(X, y.tolist()).predict_proba(tests)
    assert chances.max(axis=1).mean() == pytest.approx(
        (chances.argmax(axis=1) == truth.numpy()).mean(), abs=0.06
    )


def test_trust_follows_what_words_know():
    """Where words are right pictures hardly move them, where they are wrong pictures count."""
    scales = []
    for share in (0.0, 0.9):
        space = Space(words=share)
        X, y = space.drawn(8)
        scales.append(trust(space.encode_image(X), space.encode_text(LABELS), y))
    assert scales[1].scale > 1.3 * scales[0].scale


def test_thousands_of_one_label_and_none_of_others(space, classifier):
    X = space.drawn(3000, labels=1)[0]
    classifier.fit(X, ["ant"] * len(X))
    assert classifier.unseen_ == ["bee", "elk"]
    tests, truth = space.drawn(20, seed=5)
    assert (classifier.predict(tests) == classifier.classes_[truth]).mean() > 0.5
    assert np.isfinite(classifier.predict_proba(tests)).all()


@pytest.mark.parametrize(
    ("X", "y", "match"),
    [
        (torch.eye(D)[:2], ["ant", "eelk"], r"'eelk' is none of the 3 labels; did you mean 'elk'\?"),
        (torch.eye(D)[:2], ["ant"], "2 pictures, 1 labels"),
        (torch.eye(D)[:1], [3], "a place from 0 to 2, got 3"),
        (torch.eye(D)[[0, 0]], ["ant", "bee"], "example 0 and example 1 are the same picture"),
        (torch.eye(D)[:1], [True], "got True"),
    ],
)
def test_mistakes_are_one_line_and_change_nothing(space, classifier, X, y, match):
    classifier.fit(*space.drawn(2))
    before = classifier.coef_.copy()
    with pytest.raises(HeadwordError, match=match):
        classifier.partial_fit(X, y)
    assert len(classifier.examples_) == 6
    np.testing.assert_array_equal(classifier.coef_, before)


# ---- what to ask about


@pytest.mark.parametrize("method", METHODS)
def test_suggestions_are_new_and_different(space, classifier, method):
    X, y = space.drawn(10)
    E = space.encode_image(X)
    chances = torch.from_numpy(classifier.fit(X[::10], y[::10].tolist()).predict_proba(X))
    places = suggest(E, chances, E[::10], 40, method=method).tolist()
    assert sorted(places) == [n for n in range(30) if n % 10]
    assert len(suggest(E, chances, E, 3, method=method)) == 0


def test_suggestions_of_a_kind_without_examples(space, classifier):
    X, y = space.drawn(10)
    known = y < 2
    classifier.fit(X[known], y[known].tolist())
    assert (y[classifier.suggest(X, 2)] == 2).all()
    with pytest.raises(HeadwordError, match="must be 1 or more"):
        classifier.suggest(X, 0)


# ---- a folder


@pytest.fixture(scope="module")
def taught(embedded, pictures):
    shown = [pictures[name] for name in ("cat", "coffee", "rocket")]
    classifier = embedded.classifier(["a cat", "a drink", "a machine"])
    return classifier.fit(shown, ["a cat", "a drink", "a machine"], names=["cat", "coffee", "rocket"])


def test_saved_it_is_the_same_and_learns_on(embedded, pictures, taught, tmp_path):
    folder = taught.save(tmp_path / "mine")
    loaded = headword.load_classifier(folder, model=embedded)
    images = list(pictures.values())
    np.testing.assert_array_equal(loaded.predict_proba(images), taught.predict_proba(images))
    assert loaded.examples_.names == ("cat", "coffee", "rocket")
    loaded.partial_fit([pictures["motorcycle"]], ["a machine"])
    anew = embedded.classifier(list(taught.labels)).fit(
        [pictures[name] for name in ("cat", "coffee", "rocket", "motorcycle")],
        ["a cat", "a drink", "a machine", "a machine"],
    )
    np.testing.assert_allclose(loaded.coef_, anew.coef_, atol=1e-4)
    assert taught.save(folder, overwrite=True) == folder


def test_the_centre_goes_along(model, pictures, tmp_path):
    images = list(pictures.values())
    model.centre_on(images)
    classifier = model.classifier(["a cat", "a drink"]).fit([pictures["cat"]], ["a cat"])
    folder, expected = classifier.save(tmp_path / "mine"), classifier.predict_proba(images)
    model.centre_on(images[:3])
    loaded = headword.load_classifier(folder, model=model)
    np.testing.assert_array_equal(loaded.predict_proba(images), expected)
    assert loaded.model.centre.images == len(images)
    assert model.centre.images == 3


def test_a_folder_that_is_not_its_own_is_refused(model, taught, tmp_path):
    folder = taught.save(tmp_path / "mine")
    with pytest.raises(HeadwordError, match="does not name the model"):
        headword.load_classifier(folder)
    with pytest.raises(HeadwordError, match="no saved classifier"):
        headword.load_classifier(tmp_path, model=model)
    model.templates = ("the word {}",)
    with pytest.raises(HeadwordError, match="another model of the same encoders; give that model, or teach"):
        headword.load_classifier(folder, model=model)
    config = json.loads((folder / "classifier.json").read_text())
    (folder / "classifier.json").write_text(json.dumps({**config, "names": ["x"] * 3}))
    with pytest.raises(HeadwordError, match="was edited"):
        headword.load_classifier(folder, model=model)
    (folder / "classifier.json").write_text(json.dumps({**config, "format": 2}))
    with pytest.raises(HeadwordError, match="newer than this headword"):
        headword.load_classifier(folder, model=model)
    (folder / "classifier.json").write_text(json.dumps(config))
    shutil.copy(folder / "classifier.json", folder / "classifier.safetensors")
    with pytest.raises(HeadwordError, match="is not the file that was saved"):
        headword.load_classifier(folder, model=model)


def test_features_that_are_no_numbers_or_another_encoder_s(taught):
    for features, match in ((torch.full((1, 1280), float("nan")), "not finite"), (torch.ones(1, 7), "1280")):
        with pytest.raises(HeadwordError, match=match):
            taught.partial_fit(features, ["a cat"])
    assert len(taught.examples_) == 3

"""headword among scikit-learn's own: pipelines, searches, calibration."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
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

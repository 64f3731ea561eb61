"""Tensors in, plain numbers out, shares in percent; a wrong answer that scores as high goes first."""

from headword.metrics._checks import check_k
from headword.metrics.classification import classification_metrics, places_of_labels
from headword.metrics.geometry import CentroidTest, centroid_test, linear_cka, shared_neighbours
from headword.metrics.ranking import Places, retrieval_metrics, retrieval_places

__all__ = [
    "CentroidTest", "Places", "centroid_test", "check_k", "classification_metrics", "linear_cka",
    "places_of_labels", "retrieval_metrics", "retrieval_places", "shared_neighbours",
]  # fmt: skip

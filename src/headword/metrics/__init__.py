"""What results are measured by: tensors in, plain numbers out, in percent where they are shares.

    ranking.py         exact ranks of captions and images, recall@k, P@k, mAP
    classification.py  top-k and mean per-class accuracy
    geometry.py        shared neighbours (m_NN), linear CKA, permutation test of centroids

Equal scores are decided in one way everywhere: a wrong answer that scores as high as the right one goes
before it. A model that gives everything the same score gets nothing.
"""

from headword.metrics._checks import check_k
from headword.metrics.classification import classification_metrics, places_of_labels
from headword.metrics.geometry import CentroidTest, centroid_test, linear_cka, shared_neighbours
from headword.metrics.ranking import Places, retrieval_metrics, retrieval_places

__all__ = [
    "CentroidTest",
    "Places",
    "centroid_test",
    "check_k",
    "classification_metrics",
    "linear_cka",
    "places_of_labels",
    "retrieval_metrics",
    "retrieval_places",
    "shared_neighbours",
]

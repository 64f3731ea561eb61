"""`Classifier`: words as its start, pictures as its evidence; and its folder."""

from headword.classifier.classifier import Classifier, Encoders

__all__ = ["Classifier", "Encoders"]

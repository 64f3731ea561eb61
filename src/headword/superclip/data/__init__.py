"""Training data: captioned images with random access, and batches of them that a run can resume."""

from headword.superclip.data.augment import TrainTransform
from headword.superclip.data.base import Sample, TrainingSet, open_training_set
from headword.superclip.data.batches import Batch, Batches

__all__ = ["Batch", "Batches", "Sample", "TrainTransform", "TrainingSet", "open_training_set"]

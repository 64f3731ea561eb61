"""Training data: captioned images with random access, and batches of them that a run can resume."""

from headword.training.data.augment import TrainTransform
from headword.training.data.batches import Batch, Batches, Sample, TrainingSet, ahead
from headword.training.data.sources import open_training_set

__all__ = ["Batch", "Batches", "Sample", "TrainTransform", "TrainingSet", "ahead", "open_training_set"]

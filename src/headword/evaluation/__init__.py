"""Measuring models fairly: one protocol, many models or mappings, every number with its provenance."""

from headword.evaluation.evaluating import evaluate
from headword.evaluation.protocol import Protocol, Result
from headword.evaluation.subjects import open_model

__all__ = ["Protocol", "Result", "evaluate", "open_model"]

"""Measuring models fairly: one protocol, many models or mappings, every number with its provenance.

protocol.py   what is measured and how, as settings; results
subjects.py   the models: opened by name, CLIP as the reference, with another centre or mapping
tasks.py      zero-shot classification and retrieval; probe.py: few images of a class
evaluating.py a protocol on models
shape_questions.py  what two encoders see of generated pictures
"""

from headword.evaluation.evaluating import evaluate
from headword.evaluation.protocol import Protocol, Result
from headword.evaluation.subjects import open_model

__all__ = ["Protocol", "Result", "evaluate", "open_model"]

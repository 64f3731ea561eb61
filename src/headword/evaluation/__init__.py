"""Measuring models fairly: one protocol, many models or mappings, every number with its provenance.

protocol.py   what is measured and how, as settings; results
subjects.py   the models: opened by name, with another centre or mapping; clip.py: CLIP as the reference
task.py       what tasks have in common: data, centre
zero_shot.py, retrieval.py, probe.py: the tasks
tasks.py      a protocol on models
shape_questions.py  what two encoders see of generated pictures
"""

from headword.evaluation.protocol import Protocol, Result
from headword.evaluation.subjects import open_model
from headword.evaluation.tasks import evaluate

__all__ = ["Protocol", "Result", "evaluate", "open_model"]

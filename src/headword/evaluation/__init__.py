"""Measuring models fairly: one protocol, many mappings, every number with its provenance.

protocol.py    what is measured and how, as data; results
sources.py     labelled images: folders, tables; shards.py, named_sets.py
subjects.py    what a protocol needs of a model; reference.py: CLIP models
zero_shot.py   retrieval.py   probe.py: the tasks
run.py         a protocol on a model, or on many
"""

from headword.evaluation.protocol import Protocol, Result
from headword.evaluation.subjects import Recycled, Subject, open_subject
from headword.evaluation.tasks import compare, evaluate

__all__ = ["Protocol", "Recycled", "Result", "Subject", "compare", "evaluate", "open_subject"]

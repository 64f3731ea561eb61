"""headword: a classifier's head turned into words.

`recycle` makes a dual encoder of a trained classifier and a text encoder; `load` reads a saved one.
Importing this package loads no model library; each name is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_HOMES = {
    "Classifier": "headword.classifier",
    "DualEncoder": "headword.model",
    "Enrichment": "headword.encoders.enrichment",
    "HeadwordError": "headword.errors",
    "Index": "headword.search",
    "Pairs": "headword.aligners.pairs",
    "Protocol": "headword.evaluation",
    "Query": "headword.search",
    "SuperCLIP": "headword.training.superclip",
    "build_index": "headword.search",
    "evaluate": "headword.evaluation",
    "list_images": "headword.data.folders",
    "load": "headword.model",
    "load_classifier": "headword.teaching",
    "load_text": "headword.encoders",
    "load_vision": "headword.encoders",
    "make_aligner": "headword.aligners",
    "recycle": "headword.recycling",
}

__all__ = ["__version__", *sorted(_HOMES)]

if TYPE_CHECKING:
    from headword.aligners import make_aligner as make_aligner
    from headword.aligners.pairs import Pairs as Pairs
    from headword.classifier import Classifier as Classifier
    from headword.data.folders import list_images as list_images
    from headword.encoders import load_text as load_text
    from headword.encoders import load_vision as load_vision
    from headword.encoders.enrichment import Enrichment as Enrichment
    from headword.errors import HeadwordError as HeadwordError
    from headword.evaluation import Protocol as Protocol
    from headword.evaluation import evaluate as evaluate
    from headword.model import DualEncoder as DualEncoder
    from headword.model import load as load
    from headword.recycling import recycle as recycle
    from headword.search import Index as Index
    from headword.search import Query as Query
    from headword.search import build_index as build_index
    from headword.teaching import load_classifier as load_classifier
    from headword.training.superclip import SuperCLIP as SuperCLIP


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'headword' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

"""Images → features: fast, resumable, cached, on one machine or many.

`image_features` gives a matrix; `extract_features` fills a feature store, and goes on with one that was
interrupted.

    given.py       what people give in Python → items, or features as they are
    pixels.py      an encoder's transform in two halves, checked against the whole
    decode.py      items → batches of pixels, in workers, ahead of the model
    engines.py     torch, and the choice of engine and precision; openvino_engine.py, ray_engine.py
    job.py         these together, and what their features depend on
    features.py    → a matrix, through the cache
    extraction.py  → a feature store (store.py), which vectors.py reads
"""

from headword.extract.extraction import Extraction, Shared, extract_features
from headword.extract.features import Extracted, Progress, extract, image_features

__all__ = [
    "Extracted", "Extraction", "Progress", "Shared", "extract", "extract_features", "image_features",
]  # fmt: skip

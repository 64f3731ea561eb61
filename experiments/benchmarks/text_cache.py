"""100,000 class prompts: embedded once, and the second time from the cache."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from experiments.harness import own_cache, seconds
from headword.encoders import load_text
from headword.head.names import imagenet_classes

TEMPLATES = ("{}", "a photo of a {}", "a drawing of a {}", "the {} in the picture", "a close-up of one {}")


def run(prompts: int = 100_000) -> dict[str, Any]:
    """Different prompts of the names of ImageNet-21k, once, and five times as another run would."""
    known = imagenet_classes(21841)
    assert known is not None
    names = dict.fromkeys(name for c in known[1] for name in (c.name, *c.synonyms))
    texts = list(dict.fromkeys(t.replace("{}", name) for t in TEMPLATES for name in names))[:prompts]
    assert len(texts) == prompts
    text, vectors = load_text("embedded"), []
    with own_cache(), torch.inference_mode():
        first = seconds(lambda: vectors.append(text.encode(texts)))
        again = []
        for _ in range(5):
            fresh = load_text("embedded")  # with the weights' hash to compute
            again.append(seconds(lambda: vectors.append(fresh.encode(texts))))  # noqa: B023
    assert all(torch.equal(vectors[0], other) for other in vectors[1:])
    return {
        "prompts": prompts,
        "dim": text.dim,
        "first_seconds": first,
        "first_prompts_per_second": prompts / first,
        "cached_seconds": statistics.median(again),
        "cached_seconds_all": again,
    }

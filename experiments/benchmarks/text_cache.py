"""100,000 class prompts: embedded once, and the second time from the cache.

Run: python -m experiments text-cache [--prompts 100000]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import torch

from experiments.benchmarks.common import write
from headword.encoders import load_text
from headword.head.names import imagenet_classes

TEMPLATES = ("{}", "a photo of a {}", "a drawing of a {}", "the {} in the picture", "a close-up of one {}")


def prompts(number: int) -> list[str]:
    """Different prompts of the names of ImageNet-21k."""
    found = imagenet_classes(21841)
    assert found is not None
    names = dict.fromkeys(name for c in found[1] for name in (c.name, *c.synonyms))
    made = dict.fromkeys(template.replace("{}", name) for template in TEMPLATES for name in names)
    return list(made)[:number]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=100_000)
    number = parser.parse_args().prompts
    texts = prompts(number)
    assert len(texts) == number
    text = load_text("embedded")
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        import os

        os.environ["HEADWORD_CACHE"] = folder
        start = time.perf_counter()
        first = text.encode(texts)
        once = time.perf_counter() - start
        again = []
        for _ in range(5):
            fresh = load_text("embedded")  # as another run would, with the weights' hash to compute
            start = time.perf_counter()
            second = fresh.encode(texts)
            again.append(time.perf_counter() - start)
            assert torch.equal(first, second)
    write(
        "text_cache",
        {
            "prompts": number,
            "dim": text.dim,
            "first_seconds": once,
            "first_prompts_per_second": number / once,
            "cached_seconds": statistics.median(again),
            "cached_seconds_all": again,
        },
    )


if __name__ == "__main__":
    main()

"""A pushed model's card: what it is, what it knows, and how to use it, for people."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

EVERYDAY = (
    "a dog", "a cat", "a bird", "a fish", "an insect", "a horse", "a tree", "a flower", "a mushroom",
    "a fruit", "a vegetable", "bread", "a cup of coffee", "a cake", "a car", "a bicycle", "a train",
    "an aeroplane", "a ship", "a bridge", "a church", "a house", "a kitchen", "a street", "a mountain",
    "a beach", "a forest", "snow", "a sunset", "a person", "a child", "a crowd", "a wedding",
    "a football match", "a guitar", "a book", "a computer", "a telephone", "a chair", "a bed", "a shirt",
    "a shoe", "a map", "a handwritten letter", "an X-ray", "a satellite image", "a painting", "a drawing",
    "happiness", "three of something",
)  # fmt: skip
"""Words whose familiarity the card tells."""
_SHOWN = 12


def model_card(model: Any, repo: str, results: Sequence[Mapping[str, Any]] = ()) -> str:
    """README.md of a model's repository, in Markdown.

    Args:
        model: a `DualEncoder`.
        repo: "USER/NAME".
        results: what `headword evaluate --json` wrote of it.
    """
    about = model.provenance()
    licences = {str(about[side]["licence"]) for side in ("vision", "text")}
    one = licences.pop() if len(licences) == 1 else ""
    front = {
        "library_name": "headword",
        "license": one if re.fullmatch(r"[a-z][\w.-]+", one) else "other",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": "[headword]",
    }
    parts = [
        "---\n" + "".join(f"{key}: {value}\n" for key, value in front.items()) + "---",
        f"# {repo.partition('/')[2]}",
        "Labels and finds pictures by any words. Made with headword: the classes of a trained classifier, "
        "and what they are called, were turned into a space of pictures and words.",
        f'```python\nimport headword\nmodel = headword.load("hf:{repo}")\n'
        'model.classify("photo.jpg", ["a cat", "a dog"])\n```',
        "## What it is",
        _table(("", ""), model_facts(about).items()),
        "## What it knows",
        *_knowledge(model),
        *_results(results),
        "## What it cannot know",
        "It learnt what things are called: not how many there are, who somebody is, what a text says, or "
        "which of two things is left of the other. What looks like nothing that it was taught it guesses. "
        "`headword.json` holds all numbers, and the hashes of the encoders it needs.",
    ]
    return "\n\n".join(parts) + "\n"


def model_facts(about: Mapping[str, Any]) -> dict[str, str]:
    """What a model's provenance says, in a few lines."""
    vision, text, head = about["vision"], about["text"], about["vision"]["head"]
    sources = about["pairs"]["sources"].items()
    return {
        "image encoder": f"{vision['kind']}:{vision['id']}",
        "its licence": vision["licence"] or "unknown: see its own page",
        "head": f"{head['classes']:,} classes × {head['dim']:,} features" if head else "none",
        "text encoder": f"{text['kind']}:{text['id']}",
        "text licence": text["licence"] or "unknown: see its own page",
        "learnt from": ", ".join(f"{n:,} pairs from {source}" for source, n in sources) or "captions",
        "mapping": about["aligner"]["name"],
        "templates": " | ".join(about["templates"]),
    }


def _knowledge(model: Any) -> list[str]:
    """Everyday words that it knows well and badly, as far as it can tell."""
    doubt = [f"**Take its labels with care**: {model.doubt}."] if model.doubt else []
    depths = dict(zip(EVERYDAY, model.depths(EVERYDAY), strict=True))
    known = sorted(
        ((word, depth) for word, depth in depths.items() if depth.familiarity is not None),
        key=lambda entry: -float(entry[1].familiarity),
    )
    if not known:
        return [*doubt, "It cannot tell which words it knows."]
    deep = [word for word, depth in known if depth.out_of_depth]
    return [
        *doubt,
        "How well its classes cover everyday words, by its own estimate (`model.familiarity`):",
        _table(
            ("", ""),
            {
                "well": ", ".join(word for word, depth in known[:_SHOWN] if not depth.out_of_depth) or "none",
                "badly": ", ".join(deep[::-1][:_SHOWN]) or "none of these",
            }.items(),
        ),
    ]


def _results(results: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = []
    for result in results:
        protocol = result.get("protocol", {})
        what = " ".join(str(protocol[key]) for key in ("task", "data") if key in protocol)
        rows += [(f"{what} {name}".strip(), f"{value:.2f}") for name, value in result["metrics"].items()
                 if isinstance(value, int | float)]  # fmt: skip
    return ["## Results", _table(("protocol", ""), rows)] if rows else []


def _table(columns: Sequence[str], rows: Any) -> str:
    """A Markdown table; what names hold does not break it."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(
        f"| {' | '.join(' '.join(str(cell).replace('|', '¦').split()) for cell in line)} |" for line in lines
    )

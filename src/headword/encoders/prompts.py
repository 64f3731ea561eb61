"""Class names → text embeddings, through one template or several."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from headword.encoders.text import TextEncoder
from headword.errors import HeadwordError

DEFAULT_TEMPLATE = "{}"


def check_templates(template: str | Sequence[str]) -> tuple[str, ...]:
    """The templates as a tuple, each with exactly one "{}".

    Raises:
        HeadwordError: if there is none, or one does not have exactly one "{}".
    """
    templates = (template,) if isinstance(template, str) else tuple(template)
    if not templates:
        raise HeadwordError('the list of templates is empty; "{}" is the name by itself')
    for one in templates:
        if one.count("{}") != 1 or one.replace("{}", "").count("{") or one.replace("{}", "").count("}"):
            raise HeadwordError(f'the template {one!r} must have exactly one "{{}}", where the name goes')
    return templates


def embed_names(
    text: TextEncoder, names: Sequence[str], template: str | Sequence[str] = DEFAULT_TEMPLATE
) -> Tensor:
    """Names `[N]` → unit-norm text embeddings `[N, k]`; several templates are averaged after encoding.

    Raises:
        HeadwordError: for a bad template, or names that are not a list of strings.
    """
    templates = check_templates(template)
    check_texts(names)
    prompts = [one.replace("{}", name) for one in templates for name in names]
    embedded = F.normalize(text.encode(prompts), dim=1).view(len(templates), len(names), text.dim)
    return F.normalize(embedded.mean(dim=0), dim=1) if len(templates) > 1 else embedded[0]


def check_texts(texts: Sequence[str]) -> None:
    """Texts must be a list of strings.

    Raises:
        HeadwordError: for one string, or an entry that is none or cannot be written as UTF-8.
    """
    if isinstance(texts, str):
        raise HeadwordError(f"texts must be a list of strings, got one string; write [{texts!r}]")
    for place, text in enumerate(texts, start=1):
        if not isinstance(text, str):
            raise HeadwordError(f"text {place} of {len(texts)} is {type(text).__name__}, not a string")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise HeadwordError(f"text {place} of {len(texts)} has bytes that are not UTF-8")


def check_labels(labels: Sequence[str]) -> list[str]:
    """Labels to classify with: at least one, none empty, none twice.

    Raises:
        HeadwordError: otherwise, with the label.
    """
    if isinstance(labels, str):
        raise HeadwordError(f"labels must be a list of strings, got one string; write {labels.split(',')!r}")
    labels = list(labels)
    if not labels:
        raise HeadwordError("the list of labels is empty; give at least one word to choose from")
    check_texts(labels)
    for place, label in enumerate(labels, start=1):
        if not label.strip():
            raise HeadwordError(f"label {place} of {len(labels)} is empty")
    twice = [label for label in dict.fromkeys(labels) if labels.count(label) > 1]
    if twice:
        raise HeadwordError(f"the label {twice[0]!r} is given {labels.count(twice[0])} times; give each once")
    return labels

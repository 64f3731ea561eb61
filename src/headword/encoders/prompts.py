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
        HeadwordError: for a bad template.
    """
    templates = check_templates(template)
    prompts = [one.replace("{}", name) for one in templates for name in names]
    embedded = F.normalize(text.encode(prompts), dim=1).view(len(templates), len(names), -1)
    return F.normalize(embedded.mean(dim=0), dim=1) if len(templates) > 1 else embedded[0]


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
    for place, label in enumerate(labels, start=1):
        if not isinstance(label, str) or not label.strip():
            raise HeadwordError(f"label {place} of {len(labels)} is empty")
    twice = [label for label in dict.fromkeys(labels) if labels.count(label) > 1]
    if twice:
        raise HeadwordError(f"the label {twice[0]!r} is given {labels.count(twice[0])} times; give each once")
    return labels

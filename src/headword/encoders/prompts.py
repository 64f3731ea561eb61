"""Class names → text embeddings, through one template or several."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from headword.encoders.text import TextEncoder, check_texts
from headword.errors import HeadwordError
from headword.head.wordnet import wordnet

DEFAULT_TEMPLATE = "{}"
MAX_LABEL = 500
"""Characters a label may have."""
FOUR_TEMPLATES = ("{}", "a photo of a {}", "a picture of a {}", "an image of a {}")


@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """The texts that stand for names, and how their embeddings become one a name.

    Several templates are averaged after encoding. Where WordNet knows a name, what it is a kind of is said
    too ("cat, a kind of feline"; averaged over its senses) and takes `hypernym_weight` of the embedding.
    """

    names: tuple[str, ...]
    templates: tuple[str, ...]
    hypernym_weight: float = 0.0
    """From 0, names by themselves, to 1."""

    @property
    def texts(self) -> list[str]:
        """What to encode: every name in each template, then what the names are kinds of."""
        prompts = [template.replace("{}", name) for template in self.templates for name in self.names]
        return prompts + [text for _, text in self._hypernyms()]

    def combine(self, embedded: Tensor) -> Tensor:
        """Embeddings of `texts` → one of unit norm for each name `[N, k]`."""
        embedded = F.normalize(embedded, dim=1)
        n_prompts = len(self.templates) * len(self.names)
        rows = embedded[:n_prompts].view(len(self.templates), len(self.names), -1)  # [templates, N, k]
        base = F.normalize(rows.mean(dim=0), dim=1) if len(rows) > 1 else rows[0]
        if n_prompts == len(embedded):
            return base
        owner = embedded.new_tensor([row for row, _ in self._hypernyms()]).long()
        kind = F.normalize(base.new_zeros(base.shape).index_add(0, owner, embedded[n_prompts:]), dim=1)
        known = kind.any(dim=1, keepdim=True)
        return F.normalize(base + known * self.hypernym_weight * (kind - base), dim=1)

    def _hypernyms(self) -> list[tuple[int, str]]:
        if not self.hypernym_weight:
            return []
        nouns = wordnet()
        kinds = ((row, name, kind) for row, name in enumerate(self.names) for kind in nouns.hypernyms(name))
        return [(row, f"{name}, a kind of {kind}") for row, name, kind in kinds]


def check_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """The templates as a tuple, at least one; each must have exactly one "{}"."""
    templates = (templates,) if isinstance(templates, str) else tuple(templates)
    if not templates:
        raise HeadwordError('the list of templates is empty; "{}" is the name by itself')
    for template in templates:
        if not re.fullmatch(r"[^{}]*\{\}[^{}]*", template):
            raise HeadwordError(
                f'the template {template!r} must have exactly one "{{}}", where the name goes'
            )
    return templates


def embed_names(
    text: TextEncoder,
    names: Sequence[str],
    templates: str | Sequence[str] = DEFAULT_TEMPLATE,
    *,
    hypernym_weight: float = 0.0,
) -> Tensor:
    """Names `[N]` → unit-norm text embeddings `[N, k]`; `Prompts` says how."""
    check_texts(names)
    prompts = Prompts(tuple(names), check_templates(templates), hypernym_weight)
    return prompts.combine(text.encode(prompts.texts))


def tidy_labels(typed: Iterable[str]) -> list[str]:
    """Labels as people type them, without blanks and commas around them; empty ones are left out."""
    return [label for label in (re.sub(r"^[\s,]+|[\s,]+$", "", piece) for piece in typed) if label]


def check_labels(labels: Sequence[str]) -> list[str]:
    """Labels to classify with: at least one, each a line of at most `MAX_LABEL` characters, none twice."""
    if isinstance(labels, str):
        raise HeadwordError(f"labels must be a list of strings, got one string; write {labels.split(',')!r}")
    labels = list(labels)
    if not labels:
        raise HeadwordError("the list of labels is empty; give at least one word to choose from")
    check_texts(labels)
    for place, label in enumerate(labels, start=1):
        which = f"label {place} of {len(labels)}"
        control = [c for c in label.strip() if unicodedata.category(c) == "Cc"]
        if control:
            raise HeadwordError(f"{which} has the control character {control[0]!r} in it")
        if not any(c.isprintable() and not c.isspace() for c in label):
            raise HeadwordError(f"{which} is empty")
        if len(label) > MAX_LABEL:
            raise HeadwordError(f"{which} has {len(label):,} characters, more than {MAX_LABEL}")
    label, times = Counter(labels).most_common(1)[0]
    if times > 1:
        raise HeadwordError(f"the label {label!r} is given {times} times; give each once")
    return labels

"""Class names → text embeddings, through one template or several."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from headword.encoders.text import TextEncoder
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
        said = [one.replace("{}", name) for one in self.templates for name in self.names]
        return said + [text for _, text in self._hypernyms()]

    def combine(self, embedded: Tensor) -> Tensor:
        """Embeddings of `texts` → one of unit norm for each name `[N, k]`."""
        embedded = F.normalize(embedded, dim=1)
        said = len(self.templates) * len(self.names)
        rows = embedded[:said].view(len(self.templates), len(self.names), -1)
        base = F.normalize(rows.mean(dim=0), dim=1) if len(rows) > 1 else rows[0]
        if said == len(embedded):
            return base
        owner = embedded.new_tensor([row for row, _ in self._hypernyms()]).long()
        kind = F.normalize(base.new_zeros(base.shape).index_add(0, owner, embedded[said:]), dim=1)
        known = kind.any(dim=1, keepdim=True)
        return F.normalize(base + known * self.hypernym_weight * (kind - base), dim=1)

    def _hypernyms(self) -> list[tuple[int, str]]:
        if not self.hypernym_weight:
            return []
        nouns = wordnet()
        return [
            (row, f"{name}, a kind of {kind}")
            for row, name in enumerate(self.names)
            for kind in nouns.hypernyms(name)
        ]


def check_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """The templates as a tuple, each with exactly one "{}".

    Raises:
        HeadwordError: if there is none, or one does not have exactly one "{}".
    """
    templates = (templates,) if isinstance(templates, str) else tuple(templates)
    if not templates:
        raise HeadwordError('the list of templates is empty; "{}" is the name by itself')
    for one in templates:
        if one.count("{}") != 1 or one.replace("{}", "").count("{") or one.replace("{}", "").count("}"):
            raise HeadwordError(f'the template {one!r} must have exactly one "{{}}", where the name goes')
    return templates


def embed_names(
    text: TextEncoder,
    names: Sequence[str],
    templates: str | Sequence[str] = DEFAULT_TEMPLATE,
    *,
    hypernym_weight: float = 0.0,
) -> Tensor:
    """Names `[N]` → unit-norm text embeddings `[N, k]`; `Prompts` says how.

    Raises:
        HeadwordError: for a bad template, or names that are not a list of strings.
    """
    checked = check_templates(templates)
    check_texts(names)
    prompts = Prompts(tuple(names), checked, hypernym_weight)
    return prompts.combine(text.encode(prompts.texts))


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


def tidy_labels(typed: Iterable[str]) -> list[str]:
    """Labels as people type them, without blanks and commas around them; empty ones are left out."""
    return [label for label in (re.sub(r"^[\s,]+|[\s,]+$", "", piece) for piece in typed) if label]


def check_labels(labels: Sequence[str]) -> list[str]:
    """Labels to classify with: at least one, each a line of at most `MAX_LABEL` characters, none twice.

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
        control = next((c for c in label.strip() if unicodedata.category(c) == "Cc"), None)
        if control is not None:
            raise HeadwordError(f"label {place} of {len(labels)} has the control character {control!r} in it")
        if not any(c.isprintable() and not c.isspace() for c in label):
            raise HeadwordError(f"label {place} of {len(labels)} is empty")
        if len(label) > MAX_LABEL:
            raise HeadwordError(
                f"label {place} of {len(labels)} has {len(label):,} characters, more than {MAX_LABEL}"
            )
    twice = [label for label in dict.fromkeys(labels) if labels.count(label) > 1]
    if twice:
        raise HeadwordError(f"the label {twice[0]!r} is given {labels.count(twice[0])} times; give each once")
    return labels

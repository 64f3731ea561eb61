"""More pairs from one head: synonyms, definitions, "a kind of", and prototypes of hypernyms."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from headword.aligners.pairs import Pairs
from headword.encoders.prompts import DEFAULT_TEMPLATE, Prompts, check_templates
from headword.encoders.text import Progress, TextEncoder, check_texts
from headword.errors import HeadwordError
from headword.head.names import ClassName
from headword.head.wordnet import wordnet

MERGE_FROM = 5_000
"""Classes from which a class's texts are averaged into one pair, which keeps fit and model small."""

MERGED_WORDS = 10
"""Words of a definition that are kept where a class's texts are merged: the rest is a tenth of all tokens,
and earns nothing when classes are left out."""

WIDEST = 0.5
"""An ancestor of more than this share of the classes says nothing ("entity") and gets no prototype."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrichment:
    """What a head's rows are paired with besides the names, by weight beside a name's 1; 0 leaves it out.

    The weights were chosen by leaving classes of the embedded head out; see docs/beyond.md for what each is
    worth.
    """

    synonyms: float = 0.3
    """Each synonym of a class with its row."""
    definitions: float = 0.3
    """"NAME, DEFINITION" with its row."""
    kinds: float = 1.0
    """"NAME, a kind of PARENT" with its row; where WordNet knows the class."""
    hypernyms: float = 0.1
    """Each name of an ancestor with the mean of its descendants' rows. Classes that WordNet does not know
    are grouped by the last word of their names ("Song Sparrow", "House Sparrow": "Sparrow")."""
    hypernym_weight: float = 0.9
    """How much of a label's embedding says what it is a kind of; see `headword.encoders.prompts.Prompts`."""

    def __post_init__(self) -> None:
        for name in ("synonyms", "definitions", "kinds", "hypernyms"):
            if not getattr(self, name) >= 0:
                raise HeadwordError(
                    f"the enrichment's {name} must be a weight ≥ 0, got {getattr(self, name)}"
                )
        if not 0 <= self.hypernym_weight <= 1:
            raise HeadwordError(f"hypernym_weight must be between 0 and 1, got {self.hypernym_weight}")


RICH = Enrichment()
PLAIN = Enrichment(synonyms=0, definitions=0, kinds=0, hypernyms=0, hypernym_weight=0)
ENRICHMENTS = {"rich": RICH, "plain": PLAIN}


def make_enrichment(words: str | Enrichment) -> Enrichment:
    """The enrichment of a name: "rich" or "plain" (class names alone, as in the paper)."""
    if isinstance(words, Enrichment):
        return words
    if words not in ENRICHMENTS:
        raise HeadwordError(f"there is no enrichment {words!r}; choose {' or '.join(ENRICHMENTS)}")
    return ENRICHMENTS[words]


def enriched_pairs(
    rows: Tensor,
    classes: Sequence[ClassName],
    text: TextEncoder,
    templates: str | Sequence[str] = DEFAULT_TEMPLATE,
    enrichment: Enrichment = RICH,
    *,
    merge: bool | None = None,
    progress: Progress | None = None,
) -> Pairs:
    """A head's rows with their class names, and with all that the enrichment says of them.

    Args:
        rows: `[C, d]` the head's rows.
        classes: what they are called.
        text: encodes the texts.
        templates: of the class names; the other texts are taken as they are.
        enrichment: which texts, and their weights.
        merge: average a class's texts, by weight, into one pair; from 5,000 classes on when not given.
        progress: called with (texts done, texts in all) while they are embedded.

    Returns:
        Pairs of the sources "head" (first, a row a class), "synonym", "definition", "kind" and "hypernym".
    """
    merged = len(classes) >= MERGE_FROM if merge is None else merge
    further = _further_texts(classes, enrichment, MERGED_WORDS if merged else None)
    names = tuple(c.name for c in classes)
    check_texts(names)
    prompts = Prompts(names, check_templates(templates))
    ancestors = _ancestors(classes) if enrichment.hypernyms else {}
    parts = [one.text for one in further], prompts.texts, list(ancestors)
    # In one call, so that each different text is encoded once.
    everything = text.encode([one for part in parts for one in part], progress=progress)
    embedded, prompted, above = torch.split(everything, [len(part) for part in parts])
    head, owner = prompts.combine(prompted), [one.row for one in further]
    weight = torch.tensor([one.weight for one in further])
    if merged and further:
        head = head.index_add(0, torch.tensor(owner), F.normalize(embedded, dim=1) * weight[:, None])
    pairs = Pairs(image=rows, text=head, names=names, source=("head",) * len(names))
    if further and not merged:
        pairs += Pairs(
            image=rows[owner],
            text=embedded,
            names=tuple(one.text for one in further),
            source=tuple(one.source for one in further),
            weight=weight,
        )
    if ancestors:
        unit = F.normalize(rows.float(), dim=1)
        pairs += Pairs(
            image=torch.stack([unit[below].mean(dim=0) for below in ancestors.values()]),
            text=above,
            names=tuple(ancestors),
            source=("hypernym",) * len(ancestors),
            weight=torch.full((len(ancestors),), enrichment.hypernyms),
        )
    return pairs


class _Text(NamedTuple):
    row: int
    text: str
    source: str
    weight: float


def _further_texts(classes: Sequence[ClassName], enrichment: Enrichment, longest: int | None) -> list[_Text]:
    """What is said of the classes besides their names; of definitions the first `longest` words."""
    texts = []
    nouns = wordnet() if enrichment.kinds else None
    for row, c in enumerate(classes):
        if enrichment.synonyms:
            texts += [_Text(row, word, "synonym", enrichment.synonyms) for word in c.synonyms]
        if enrichment.definitions and c.definition:
            definition = c.definition if longest is None else " ".join(c.definition.split()[:longest])
            texts.append(_Text(row, f"{c.name}, {definition}", "definition", enrichment.definitions))
        if nouns is not None and (wnid := _wnid(c)) and nouns[wnid].parents:
            kind = nouns[nouns[wnid].parents[0]].names[0]
            texts.append(_Text(row, f"{c.name}, a kind of {kind}", "kind", enrichment.kinds))
    return texts


def _ancestors(classes: Sequence[ClassName]) -> dict[str, list[int]]:
    """Names of ancestors → the rows of the classes that are kinds of them."""
    nouns = wordnet()
    by_id: dict[str, list[int]] = defaultdict(list)
    by_word: dict[str, list[int]] = defaultdict(list)
    for row, c in enumerate(classes):
        if wnid := _wnid(c):
            for ancestor in nouns.ancestors(wnid):
                by_id[ancestor].append(row)
        elif len(words := c.name.split()) > 1:
            by_word[words[-1]].append(row)
    named = [(name, rows) for wnid, rows in sorted(by_id.items()) for name in nouns[wnid].names]
    named += [(word, rows) for word, rows in sorted(by_word.items()) if len(rows) > 1]
    ancestors: dict[str, dict[int, None]] = defaultdict(dict)
    for name, rows in named:
        if len(rows) <= WIDEST * len(classes):
            ancestors[name] |= dict.fromkeys(rows)
    return {name: list(rows) for name, rows in ancestors.items()}


def _wnid(c: ClassName) -> str | None:
    """The class's synset: its own id, else the only one that its name has."""
    nouns = wordnet()
    if c.id in nouns:
        return c.id
    senses = nouns.senses(c.name)
    return senses[0].id if len(senses) == 1 else None

"""Nouns and what they are kinds of: the part of WordNet 3.0 that ImageNet's label sets touch, or all of it.

The shipped table (`nouns.tsv.gz`, made by `headword.head.wordnet.derive`) has the 21,844 synsets of timm's
ImageNet label sets and their ancestors. Another WordNet of the same format, such as that of Debian's
wordnet-base, is read from the folder that `HEADWORD_WORDNET` names.
"""

from __future__ import annotations

import gzip
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from headword.errors import HeadwordError
from headword.files import expand

TABLE = Path(__file__).parent / "nouns.tsv.gz"


@dataclass(frozen=True, slots=True)
class Synset:
    """A meaning of a noun."""

    id: str
    """ImageNet's wnid: "n" and WordNet 3.0's offset."""
    names: tuple[str, ...]
    """Its lemmas, the most usual first."""
    parents: tuple[str, ...]
    """Ids of what it is a kind of."""


class WordNet(Mapping[str, Synset]):
    """Synsets by id, and by name through `senses`."""

    def __init__(self, synsets: Mapping[str, Synset]) -> None:
        self._synsets = dict(synsets)
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for synset in self._synsets.values():
            for name in synset.names:
                self._by_name[name.lower()].append(synset.id)

    def __getitem__(self, wnid: str) -> Synset:
        return self._synsets[wnid]

    def __iter__(self) -> Iterator[str]:
        return iter(self._synsets)

    def __len__(self) -> int:
        return len(self._synsets)

    def senses(self, name: str) -> tuple[Synset, ...]:
        """The synsets a name may mean, in WordNet's order of ids.

        Case and a leading article do not count; a plural in -s or -es is looked up as its singular too.
        """
        words = name.lower().replace("_", " ").split()
        said = " ".join(words[1:] if words[:1] in (["a"], ["an"], ["the"]) else words)
        for form in (said, said.removesuffix("s"), said.removesuffix("es")):
            if form in self._by_name:
                return tuple(self._synsets[wnid] for wnid in dict.fromkeys(self._by_name[form]))
        return ()

    def ancestors(self, wnid: str) -> frozenset[str]:
        """Ids of all that a synset is a kind of, itself not among them; none for an unknown id."""
        found: set[str] = set()
        open_ids = [wnid]
        while open_ids:
            synset = self._synsets.get(open_ids.pop())
            new = [] if synset is None else [p for p in synset.parents if p not in found]
            found.update(new)
            open_ids += new
        return frozenset(found)

    def hypernyms(self, name: str) -> tuple[str, ...]:
        """What a name is a kind of, by its first parent in each sense: ("feline", "man", …) for "cat"."""
        parents = (synset.parents[0] for synset in self.senses(name) if synset.parents)
        return tuple(dict.fromkeys(self._synsets[p].names[0] for p in parents if p in self._synsets))


def wordnet() -> WordNet:
    """The WordNet in `HEADWORD_WORDNET`, else the shipped table; read once.

    Raises:
        HeadwordError: if the folder has no WordNet.
    """
    folder = os.environ.get("HEADWORD_WORDNET")
    return _shipped() if not folder else _from_folder(folder)


@cache
def _shipped() -> WordNet:
    with gzip.open(TABLE, "rt", encoding="utf-8") as lines:
        rows = (line.rstrip("\n").split("\t") for line in lines)
        return WordNet(
            {
                wnid: Synset(wnid, tuple(names.split("|")), tuple(parents.split()))
                for wnid, parents, names in rows
            }
        )


@cache
def _from_folder(folder: str) -> WordNet:
    from headword.head.wordnet.derive import read_nouns

    file = expand(folder) / "data.noun"
    if not file.is_file():
        raise HeadwordError(
            f"HEADWORD_WORDNET={folder} has no data.noun; name WordNet's folder of dictionary files, "
            "/usr/share/wordnet with Debian's wordnet-base, or unset it for the shipped table"
        )
    return WordNet(read_nouns(file))

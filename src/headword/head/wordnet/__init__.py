"""Nouns and what they are kinds of: the part of WordNet 3.0 that ImageNet's label sets touch, or all of it.

The shipped table (`nouns.tsv.gz`, made by `experiments/wordnet_table.py`) has the 21,844 synsets of timm's
ImageNet label sets and their ancestors. Another WordNet of the same format, such as that of Debian's
wordnet-base, is read from the folder that `HEADWORD_WORDNET` names.
"""

from __future__ import annotations

import gzip
import os
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from headword.errors import HeadwordError
from headword.files import expand

TABLE = Path(__file__).parent / "nouns.tsv.gz"


class Synset(NamedTuple):
    """A meaning of a noun: its lemmas, the most usual first, and the ids of what it is a kind of."""

    id: str
    """ImageNet's wnid: "n" and WordNet 3.0's offset."""
    names: tuple[str, ...]
    parents: tuple[str, ...]


class WordNet(dict[str, Synset]):
    """Synsets by id, and by name through `senses`."""

    def __init__(self, synsets: Iterable[Synset]) -> None:
        super().__init__((synset.id, synset) for synset in synsets)
        self._by_name: dict[str, dict[str, Synset]] = defaultdict(dict)
        for synset in self.values():
            for name in synset.names:
                self._by_name[name.lower()][synset.id] = synset

    def senses(self, name: str) -> tuple[Synset, ...]:
        """The synsets a name may mean, in WordNet's order of ids.

        Case and a leading article do not count; a plural in -s or -es is looked up as its singular too.
        """
        words = name.lower().replace("_", " ").split()
        phrase = " ".join(words[1:] if words[:1] in (["a"], ["an"], ["the"]) else words)
        for form in (phrase, phrase.removesuffix("s"), phrase.removesuffix("es")):
            if form in self._by_name:
                return tuple(self._by_name[form].values())
        return ()

    def ancestors(self, wnid: str) -> frozenset[str]:
        """Ids of all that a synset is a kind of, itself not among them; none for an unknown id."""
        ancestors: set[str] = set()
        open_ids = [wnid]
        while open_ids:
            synset = self.get(open_ids.pop())
            parents = set(synset.parents) - ancestors if synset else set()
            ancestors |= parents
            open_ids += parents
        return frozenset(ancestors)

    def hypernyms(self, name: str) -> tuple[str, ...]:
        """What a name is a kind of, by its first parent in each sense: ("feline", "man", …) for "cat"."""
        parents = (synset.parents[0] for synset in self.senses(name) if synset.parents)
        return tuple(dict.fromkeys(self[parent].names[0] for parent in parents if parent in self))


def wordnet() -> WordNet:
    """The WordNet in `HEADWORD_WORDNET`, else the shipped table; read once."""
    return _read(os.environ.get("HEADWORD_WORDNET", ""))


@cache
def _read(folder: str) -> WordNet:
    if not folder:
        with gzip.open(TABLE, "rt", encoding="utf-8") as lines:
            rows = (line.rstrip("\n").split("\t") for line in lines)
            return WordNet(Synset(id, tuple(names.split("|")), tuple(p.split())) for id, p, names in rows)
    file = expand(folder) / "data.noun"
    if not file.is_file():
        raise HeadwordError(
            f"HEADWORD_WORDNET={folder} has no data.noun; name WordNet's folder of dictionary files, "
            "/usr/share/wordnet with Debian's wordnet-base, or unset it for the shipped table"
        )
    return read_nouns(file)


def read_nouns(file: Path) -> WordNet:
    """All noun synsets of a `data.noun`, by ImageNet's ids; instances ("Rhine") count as kinds.

    The format is in WordNet's manual page wndb(5WN).
    """
    synsets = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("  "):  # the licence
            continue
        try:
            fields = line.partition("|")[0].split()
            n_words = int(fields[3], 16)
            words = tuple(fields[4 + 2 * n].replace("_", " ") for n in range(n_words))
            at = 4 + 2 * n_words
            pointers = [fields[at + 1 + 4 * n : at + 5 + 4 * n] for n in range(int(fields[at]))]
            parents = tuple(f"n{p[1]}" for p in pointers if p[0] in ("@", "@i") and p[2] == "n")
        except (IndexError, ValueError):
            raise HeadwordError(f"{file}, line {number}: not WordNet's format (wndb)") from None
        synsets.append(Synset(f"n{fields[0]}", words, parents))
    return WordNet(synsets)

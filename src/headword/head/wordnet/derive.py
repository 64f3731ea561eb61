"""Makes the shipped table from WordNet's own files: python -m headword.head.wordnet.derive /usr/share/wordnet

The format of `data.noun` is in WordNet's manual page wndb(5WN).
"""

from __future__ import annotations

import gzip
import io
import sys
from pathlib import Path

from headword.errors import HeadwordError
from headword.head.wordnet import TABLE, Synset, WordNet


def read_nouns(file: Path) -> dict[str, Synset]:
    """All noun synsets of a `data.noun`, by ImageNet's ids; instances ("Rhine") count as kinds.

    Raises:
        HeadwordError: if a line is not in WordNet's format.
    """
    synsets = {}
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
        synsets[f"n{fields[0]}"] = Synset(f"n{fields[0]}", words, parents)
    return synsets


def derive(folder: Path) -> None:
    """Write the synsets of timm's ImageNet label sets and their ancestors into `TABLE`."""
    from timm.data import ImageNetInfo

    nouns = WordNet(read_nouns(folder / "data.noun"))
    subsets = ("imagenet-1k", "imagenet-12k", "imagenet-21k-miil", "imagenet-22k", "imagenet-22k-ms")
    known = {wnid for name in (*subsets, "imagenet-21k-goog") for wnid in ImageNetInfo(name).label_names()}
    known &= set(nouns)
    wanted = sorted(known.union(*(nouns.ancestors(wnid) for wnid in known)))
    rows = (f"{wnid}\t{' '.join(nouns[wnid].parents)}\t{'|'.join(nouns[wnid].names)}\n" for wnid in wanted)
    data = io.BytesIO()
    with gzip.GzipFile(fileobj=data, mode="wb", mtime=0) as packed:  # no date: equal input, equal bytes
        packed.write("".join(rows).encode())
    TABLE.write_bytes(data.getvalue())


if __name__ == "__main__":
    derive(Path(sys.argv[1]))

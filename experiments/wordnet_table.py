"""Makes the shipped nouns of WordNet's files: python -m experiments.wordnet_table /usr/share/wordnet"""

from __future__ import annotations

import gzip
import io
import sys
from pathlib import Path

from headword.head.wordnet import TABLE, read_nouns


def derive(folder: Path) -> None:
    """Write the synsets of timm's ImageNet label sets and their ancestors into `TABLE`."""
    from timm.data import ImageNetInfo

    nouns = read_nouns(folder / "data.noun")
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

"""What training reads: sets of captioned images, by name.

| `data` | what | captions |
|---|---|---|
| `shapes`, `shapes:images=5000,size=96` | generated: `headword.data.shapes` | its own, also re-written ones |
| a file: JSONL, CSV, Karpathy, COCO | `headword.data.captions` | its own; `rewritten`, or a second file |
| `wds:PATTERN`, `….tar` | local WebDataset shards, `x-{000..009}.tar`, a folder | `.txt` or `.json` |
| a folder of class folders | `FOLDER/CLASS/….jpg` | templates of the class's name |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from headword.errors import HeadwordError
from headword.files import expand

CLASS_TEMPLATES = ("a photo of a {}",)
"""The captions of images that are sorted into classes, when no templates are given."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One decoded training example."""

    image: Image.Image
    """RGB."""
    captions: tuple[str, ...]
    """The original captions, one or more."""
    rewritten: tuple[str, ...] = ()
    """Captions that a model wrote anew, usually longer; there may be none."""
    id: str = ""
    """What messages call it."""


class TrainingSet(Protocol):
    """Captioned images with random access; picklable, for worker processes.

    A set whose samples lie together on disk may also have `blocks`, the lengths of its consecutive stretches
    (a shard each): they are then read mostly forward (`headword.training.data.batches`).
    """

    @property
    def fingerprint(self) -> str:
        """sha256 over what the set holds: names, sizes, captions. A checkpoint keeps it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """Decode one sample.

        Raises:
            HeadwordError: if its image cannot be read or it has no caption, in one line with its name.
        """


def open_training_set(
    data: str,
    *,
    split: str | None = None,
    seed: int = 0,
    rewritten: str | None = None,
    templates: Sequence[str] = CLASS_TEMPLATES,
    shrink_to: int | None = None,
) -> TrainingSet:
    """A training set by name; no image is opened yet.

    Args:
        data: as in the table above.
        split: which part; "train+restval" joins two. When not given, "train" of a set that has it, else
            all of it.
        seed: of sets that are generated.
        rewritten: a second caption file, of the same images, with captions that were written anew.
        templates: captions for a folder of class folders, with "{}" for the class's name.
        shrink_to: as in `headword.data.images.load_image`: large JPEG files may be decoded at a fraction of
            their size.

    Raises:
        HeadwordError: if the data or the split is not there, or damaged, or an option does not go with it.
    """
    scheme, colon, rest = data.partition(":")
    path = expand(data)
    if rewritten is not None and not path.is_file():
        raise HeadwordError("a file of re-written captions goes with a caption file as the data")
    if scheme == "shapes" and not path.exists():
        from headword.training.data.generated import open_shapes

        return open_shapes(rest, split=split, seed=seed)
    if (colon and scheme == "wds") or path.suffix == ".tar":
        from headword.training.data.tar_files import Shards

        return Shards.open(rest if scheme == "wds" else data, split=split, shrink_to=shrink_to)
    if path.is_dir():
        from headword.training.data.local import open_class_folders

        return open_class_folders(path, split=split, templates=templates, shrink_to=shrink_to)
    if path.is_file():
        from headword.training.data.local import open_caption_file

        other = None if rewritten is None else Path(rewritten)
        return open_caption_file(path, split=split, rewritten=other, shrink_to=shrink_to)
    raise HeadwordError(
        f"there is no training set {data!r}: give shapes, a caption file (.jsonl, .csv, .json), a folder of "
        "class folders, or wds:SHARDS"
    )

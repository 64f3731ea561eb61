"""Training sets of image files: caption files, and folders whose names are the captions."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from headword.data.captions import Captioned, read_captions
from headword.data.folders import class_folders
from headword.data.images import load_image
from headword.data.splits import TRAINED, chosen_split
from headword.encoders.prompts import check_templates
from headword.errors import HeadwordError
from headword.head.names import spoken
from headword.training.data.sources import Sample
from headword.training.data.strings import Groups, Strings


class CaptionedFiles:
    """Image files and their captions; see `open_training_set`.

    Args:
        entries: images and captions, one or more.
        shrink_to: as in `load_image`.
    """

    def __init__(self, entries: Sequence[Captioned], *, shrink_to: int | None = None) -> None:
        if not entries:
            raise HeadwordError("a training set needs at least one captioned image")
        self._paths = Strings(os.path.abspath(entry.image) for entry in entries)  # noqa: PTH100
        self._captions = Groups([entry.captions for entry in entries])
        self._rewritten = Groups([entry.rewritten for entry in entries])
        self._shrink_to = shrink_to

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Sample:
        image = load_image(self._paths[index], shrink_to=self._shrink_to)
        return Sample(image, *self.text(index))

    def text(self, index: int) -> tuple[tuple[str, ...], tuple[str, ...], str]:
        """Captions, re-written captions and path of a sample, without reading its image."""
        return self._captions[index], self._rewritten[index], self._paths[index]

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over the images' paths below their common folder, their sizes in bytes, and the captions."""
        root = os.path.commonpath({os.path.dirname(path) for path in self._paths})  # noqa: PTH120
        digest = hashlib.sha256()
        for index, path in enumerate(self._paths):
            size = os.stat(path).st_size if os.path.exists(path) else -1  # noqa: PTH110, PTH116
            said = (path[len(root) :], size, self._captions[index], self._rewritten[index])
            digest.update(repr(said).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def open_caption_file(
    path: Path, *, split: str | None, rewritten: Path | None = None, shrink_to: int | None = None
) -> CaptionedFiles:
    """The captioned images of a file (`read_captions`) and, of a second file, captions written anew.

    Raises:
        HeadwordError: as `read_captions`, or if the second file has captions for none of the images.
    """
    entries: list[Captioned] = read_captions(path, split=split, default=TRAINED)
    if rewritten is not None:
        entries = _with_rewritten(entries, read_captions(rewritten, missing="skip"), rewritten)
    return CaptionedFiles(entries, shrink_to=shrink_to)


def open_class_folders(
    root: Path, *, split: str | None, templates: Sequence[str], shrink_to: int | None = None
) -> CaptionedFiles:
    """Images sorted into class folders; each is captioned with its class's name in every template.

    Raises:
        HeadwordError: if there are no class folders, a template is none, or WordNet ids are unknown.
    """
    wording = check_templates(templates)
    known = {entry.name for entry in root.iterdir() if entry.is_dir()}
    chosen = split or chosen_split(known, TRAINED)
    if chosen is not None and chosen not in known:
        raise HeadwordError(f"{root} has no split {chosen!r}: there is no folder {root / chosen}")
    found = class_folders(root / chosen if chosen is not None else root)
    captions = [tuple(one.replace("{}", name) for one in wording) for name in spoken(found.names)]
    entries = [
        Captioned(path, captions[label]) for path, label in zip(found.paths, found.labels, strict=True)
    ]
    return CaptionedFiles(entries, shrink_to=shrink_to)


def _with_rewritten(
    entries: Iterable[Captioned], other: Iterable[Captioned], source: Path
) -> list[Captioned]:
    again = {entry.image.resolve(): entry.captions for entry in other}
    joined = [(entry, again.get(entry.image.resolve(), ())) for entry in entries]
    if not any(more for _, more in joined):
        raise HeadwordError(f"{source} has captions for none of the training images")
    return [replace(entry, rewritten=entry.rewritten + more) for entry, more in joined]

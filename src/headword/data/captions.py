"""Caption files: images and what people wrote about them, in the shapes in which they are passed on.

| ending | shape |
|---|---|
| `.jsonl`, `.csv`, `.tsv`, `.txt`, `.parquet` | a table: images, captions, perhaps `split` |
| `.json` | a list of such rows; Karpathy's `{"images": [{"filename", "split", "sentences"}]}`; COCO's |

Images are in one of `IMAGE_KEYS`, captions in one of `CAPTION_KEYS`. A caption is a string, a list of
strings, or a list of `{"raw": string}`. Rows of one image are merged, in the order of the file. Captions that
a model wrote anew may stand beside the original ones, likewise, under `rewritten`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from headword.data.splits import of_split, pooled
from headword.data.tables import CAPTION_KEYS, IMAGE_KEYS, TABLES, Row, as_row, beside, column, table_rows
from headword.errors import HeadwordError
from headword.files import expand, is_file, read_json

REWRITTEN_KEY = "rewritten"


@dataclass(frozen=True, slots=True)
class Captioned:
    """An image and its captions."""

    image: Path
    captions: tuple[str, ...]
    split: str | None = None
    """The split the file puts it in ("train", "val", "test", "restval"), if it says."""
    rewritten: tuple[str, ...] = ()
    """Captions that were written anew, if the file has any."""


class CaptionList(list[Captioned]):
    """Captioned images, how many more the file names that are not on disk, and of which split they are."""

    missing: int = 0
    split: str | None = None
    """ "train+val" where there are several; None where not all images have one."""


class _Entry(NamedTuple):
    """What the file says of one image, before it is looked for; `where` is file:line."""

    where: str
    image: str
    captions: list[str]
    split: str | None
    rewritten: list[str]


def read_captions(
    path: str | Path,
    *,
    split: str | None = None,
    default: Sequence[str] = (),
    missing: Literal["error", "skip"] = "error",
) -> CaptionList:
    """The captioned images of a file, in its order.

    Args:
        path: a caption file of one of the shapes above, in UTF-8; the images are in its folder, or in
            the folder `images` beside it.
        split: keep one split, or several ("train+restval").
        default: which to keep where none is named: the first of these that the file has, else all.
        missing: whether images that are not on disk are an error, or left out and counted in `.missing`.
    """
    path = expand(path)
    rows = _merge(_rows(path))
    if not rows:
        raise HeadwordError(f"{path} has no captions in it")
    rows = of_split(rows, [row.split for row in rows], split, default, path)
    entries, lost = CaptionList(), []
    for row in rows:
        image = beside(path, row.image)
        if is_file(image):
            entries.append(Captioned(image, tuple(row.captions), row.split, tuple(row.rewritten)))
        else:
            lost.append(row)
    if lost and (missing == "error" or not entries):
        raise HeadwordError(
            f"{len(lost)} of {len(rows)} images are missing, the first is {lost[0].image} ({lost[0].where}); "
            f"searched in {path.parent} or its images/; put them there, or skip missing images"
        )
    entries.missing = len(lost)
    entries.split = pooled([row.split for row in rows])
    return entries


def _merge(rows: Iterable[_Entry]) -> list[_Entry]:
    """One row an image, with the captions of all its rows."""
    merged: dict[str, _Entry] = {}
    for row in rows:
        first = merged.setdefault(row.image, row)
        if first is row:
            continue
        if first.split != row.split:
            raise HeadwordError(
                f"{row.where}: {row.image} is in split {row.split}, but in {first.split} at {first.where}"
            )
        first.captions.extend(row.captions)
        first.rewritten.extend(row.rewritten)
    return list(merged.values())


def _rows(path: Path) -> Iterator[_Entry]:
    kind = path.suffix.lower()
    if kind in TABLES or kind == ".txt":
        columns = (*IMAGE_KEYS, *CAPTION_KEYS, REWRITTEN_KEY, "split")
        return (_entry(row, where) for where, row in table_rows(path, columns))
    if kind == ".json":
        return _json(path)
    raise HeadwordError(
        f"{path} is no caption file by its ending; known are .jsonl, .csv, .tsv, .txt, .parquet and .json"
    )


def _json(path: Path) -> Iterator[_Entry]:
    content = read_json(path)
    if isinstance(content, dict):
        content = _coco(content, path) if "annotations" in content else content.get("images")
    if not isinstance(content, list):
        raise HeadwordError(
            f'{path} is no list of captioned images, nor {{"images": [...]}} as Karpathy or COCO write it'
        )
    for number, record in enumerate(content):
        where = f"{path}, image {number}"
        row = as_row(record, where)
        if {"filename", "filepath"} <= row.keys():  # Karpathy's filepath is the folder of filename
            row = {**row, "filename": f"{row['filepath']}/{row['filename']}"}
        yield _entry(row, where)


def _coco(content: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    """COCO keeps images and captions apart, joined by the image's number."""
    try:
        names = {image["id"]: image["file_name"] for image in content["images"]}
        return [
            {"image": names[note["image_id"]], "caption": note["caption"]} for note in content["annotations"]
        ]
    except (LookupError, TypeError) as error:
        raise HeadwordError(
            f"{path} is not as COCO writes it: images need id and file_name, annotations the image_id of one "
            "of them and a caption"
        ) from error


def _entry(row: Row, where: str) -> _Entry:
    image = column(row, IMAGE_KEYS, "image", where)
    captions = _texts(column(row, CAPTION_KEYS, "caption", where), where)
    if not isinstance(image, str) or not image.strip():
        raise HeadwordError(f"{where} has no image name")
    split, rewritten = row.get("split"), row.get(REWRITTEN_KEY)
    if split is not None and not isinstance(split, str):
        raise HeadwordError(f"{where}: the split must be a word, not {split!r}")
    anew = _texts(rewritten, where) if rewritten else []
    return _Entry(where, image.strip(), captions, split or None, anew)


def _texts(value: Any, where: str) -> list[str]:
    items = value if isinstance(value, list) else [value]
    if not items:
        raise HeadwordError(f"{where} has no captions; fill some in or leave the row out")
    texts = [item.get("raw") if isinstance(item, dict) else item for item in items]
    for text, item in zip(texts, items, strict=True):
        if not isinstance(text, str):
            raise HeadwordError(f'{where}: a caption must be a string or {{"raw": string}}, not {item!r}')
        if not text.isprintable() and any("\ud800" <= character <= "\udfff" for character in text):
            raise HeadwordError(f"{where} has a caption with half a character (a lone surrogate) in it")
        if not text.strip():
            raise HeadwordError(f"{where} has an empty caption; fill it in or leave the row out")
    return [str(text).strip() for text in texts]

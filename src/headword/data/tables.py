"""Tables that users bring, a row at a time with where it stands: CSV, TSV, JSON lines and Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headword.errors import HeadwordError
from headword.files import is_file, open_file, parse_json, read_text

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

IMAGE_KEYS = ("image", "file", "filename", "file_name", "path", "filepath", "image_path")
CAPTION_KEYS = ("captions", "caption", "sentences", "text", "title")
LABEL_KEYS = ("label", "class", "class_name", "category", "target")

JSON_LINES = frozenset({".jsonl", ".ndjson"})
TABLES = JSON_LINES | {".csv", ".tsv", ".parquet"}

MAX_ROWS = 100_000_000
"""Rows of a Parquet table; more are refused, since a few bytes can say any number."""

Row = Mapping[str, Any]


def table_rows(path: Path, columns: Collection[str]) -> Iterator[tuple[str, Row]]:
    """(file:line, row) of a table; a row has its columns by name, of Parquet no others than those named.

    Raises:
        HeadwordError: with the line: text that is no UTF-8, no JSON, malformed CSV, or a row that does not
            have the header's columns; a damaged Parquet file, or one of more than `MAX_ROWS`.
    """
    kind = path.suffix.lower()
    if kind == ".parquet":
        return _parquet(path, columns)
    return _json_lines(path) if kind in JSON_LINES else _separated(path)


def column(row: Row, known: tuple[str, ...], what: str, where: str) -> Any:
    """The cell of the first of the known columns that a row has."""
    for key in known:
        if key in row:
            return row[key]
    columns = ", ".join(row) or "none"
    raise HeadwordError(f"{where} has no {what} column: it has {columns}; known are {', '.join(known)}")


def as_row(record: Any, where: str) -> Row:
    """A record of JSON as a row, refused if it is no object."""
    if not isinstance(record, dict):
        raise HeadwordError(f'{where} is not an object, as {{"image": …}}')
    return record


def beside(table: Path, image: str) -> Path:
    """Where a table's image is: beside the table, in its folder `images`, or as the path says."""
    places = (table.parent / image, table.parent / "images" / image)
    return next(filter(is_file, places), places[0])  # reading what is not there says that it is missing


def _json_lines(path: Path) -> Iterator[tuple[str, Row]]:
    # Not splitlines(): captions may hold U+2028 and the like, which JSON lets stand.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            where = f"{path}:{number}"
            yield where, as_row(parse_json(line, str(path), number), where)


def _separated(path: Path) -> Iterator[tuple[str, Row]]:
    text = read_text(path)
    # CLIP training files are often called .csv and separated by tabs.
    tabs = path.suffix.lower() == ".tsv" or "\t" in text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if tabs else ",", strict=True)
    try:
        for record in reader:
            where = f"{path}:{reader.line_num}"
            if None in record or None in record.values():
                columns = len(reader.fieldnames or [])
                raise HeadwordError(
                    f"{where} does not have the header's {columns} columns; put what holds a comma or a tab "
                    "in quotes"
                )
            yield where, record
    except csv.Error as error:
        raise HeadwordError(f"{path}:{reader.line_num} is malformed: {error}") from error


@contextmanager
def open_parquet(path: Path) -> Iterator[ParquetFile]:
    """A Parquet file; whatever fails while it is read becomes one line."""
    from pyarrow import parquet

    with open_file(path) as stream:
        try:
            yield parquet.ParquetFile(stream)
        except HeadwordError:
            raise
        except Exception as error:  # of a damaged file Arrow raises several kinds, of a bomb MemoryError
            raise HeadwordError(f"{path} is damaged or no Parquet file: {error}".splitlines()[0]) from error


def _parquet(path: Path, columns: Collection[str]) -> Iterator[tuple[str, Row]]:
    with open_parquet(path) as file:
        names, count = file.schema_arrow.names, file.metadata.num_rows
        present = [name for name in names if name in columns]
        if not present:
            yield str(path), dict.fromkeys(names)
        if count > MAX_ROWS:
            raise HeadwordError(f"{path} says it has {count:,} rows; {MAX_ROWS:,} are read")
        batches = file.iter_batches(columns=present, batch_size=4096)
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(rows, start=1):
            yield f"{path}:{number}", row

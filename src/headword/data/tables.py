"""Tables of text that users bring, a row at a time with where it stands: CSV, TSV and JSON lines."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headword.errors import HeadwordError
from headword.files import is_file, parse_json, read_text

JSON_LINES = frozenset({".jsonl", ".ndjson"})


def text_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(file:line, row) of a table: what the JSON of a line is, else a dictionary by the header's names.

    Tabs or commas part the columns of what is not JSON, by the ending `.tsv` or a tab in the header.

    Raises:
        HeadwordError: with the line: text that is no UTF-8, no JSON, malformed CSV, or a row that does not
            have the header's columns.
    """
    text = read_text(path)
    if path.suffix.lower() in JSON_LINES:
        # Not splitlines(): captions may hold U+2028 and the like, which JSON lets stand.
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                yield f"{path}:{number}", parse_json(line, str(path), number)
        return
    # CLIP training files are often called .csv and separated by tabs.
    tabs = path.suffix.lower() == ".tsv" or "\t" in text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if tabs else ",", strict=True)
    try:
        for record in reader:
            where = f"{path}:{reader.line_num}"
            if None in record or None in record.values():
                columns = len(reader.fieldnames or [])
                raise HeadwordError(
                    f"{where} does not have the header's {columns} columns; put captions that hold a comma "
                    "or a tab in quotes"
                )
            yield where, record
    except csv.Error as error:
        raise HeadwordError(f"{path}:{reader.line_num} is malformed: {error}") from error


def beside(table: Path, image: str) -> Path:
    """Where a table's image is: beside the table, in its folder `images`, or as the path says."""
    for folder in (table.parent, table.parent / "images"):
        if is_file(folder / image):
            return folder / image
    return table.parent / image  # reading it says that it is missing

"""Files that are whole or not there, and reading that says what is wrong; nothing is unpickled."""

from headword.files.reading import (
    expand,
    format_of,
    is_file,
    memory,
    open_file,
    open_regular,
    parse_json,
    printable,
    read_json,
    read_text,
    sha256,
)  # fmt: skip
from headword.files.tensors import check_tensors, load_tensors, read_metadata, save_tensors
from headword.files.writing import (
    MARKER,
    check_new_file,
    check_new_folder,
    locked,
    new_file,
    new_folder,
    remove_unfinished,
    sealed,
    write_text_atomic,
)  # fmt: skip

__all__ = [
    "MARKER", "check_new_file", "check_new_folder", "check_tensors", "expand", "format_of", "is_file",
    "load_tensors", "locked", "memory", "new_file", "new_folder", "open_file", "open_regular", "parse_json",
    "printable", "read_json", "read_metadata", "read_text", "remove_unfinished", "save_tensors", "sealed",
    "sha256", "write_text_atomic",
]  # fmt: skip

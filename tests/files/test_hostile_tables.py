"""Shards, tables and matrices that were made to harm: one line each, within bounds of memory and time."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from headword.data.captions import read_captions
from headword.data.labelled import open_images
from headword.errors import HeadwordError
from headword.extract.given import items_of
from headword.extract.vectors import read_vectors
from headword.training.data.sources import open_training_set
from support.hostile import bounded, encoded

pytestmark = pytest.mark.attack


def refused(read, *arguments) -> str:
    with bounded(1_000_000_000, 20), pytest.raises(HeadwordError) as caught:
        read(*arguments)
    line = str(caught.value)
    assert line.isprintable()
    assert 10 < len(line) < 3_000
    return line


def read_or_refused(read, *arguments) -> list:
    with bounded(1_500_000_000, 20):
        try:
            return list(read(*arguments))
        except HeadwordError as error:
            line = str(error)
    assert line.isprintable()
    return []


# --- shards


def header(name: str = "a.png", size: int | bytes = 0, kind: bytes = b"0") -> bytes:
    """A tar header, which may say any size."""
    field = size if isinstance(size, bytes) else f"{size:011o}".encode() + b"\0"
    head = bytearray(512)
    head[:100] = name.encode().ljust(100, b"\0")
    head[100:124] = b"0000644\0" + b"0000000\0" * 2
    head[124:136], head[136:148] = field, b"00000000000\0"
    head[156:157], head[257:265] = kind, b"ustar\x0000"
    head[148:156] = b" " * 8
    head[148:156] = f"{sum(head):06o}\0 ".encode()
    return bytes(head)


def base256(number: int) -> bytes:
    return (b"\xff" if number < 0 else b"\x80") + number.to_bytes(11, "big", signed=True)


def pax(**fields: str) -> bytes:
    said = b""
    for key, value in fields.items():
        rest = f" {key.replace('_', '.', 2)}={value}\n".encode()
        said += str(len(rest) + len(str(len(rest) + 2))).encode() + rest
    return header("pax", len(said), b"x") + said.ljust(512, b"\0")


END = bytes(1024)
PNG = encoded("PNG")
MEMBER = header("a.png", len(PNG)) + PNG + bytes(-len(PNG) % 512)
SHARDS = {
    "a size of 10 GB": header(size=10 << 30) + PNG,
    "a size of 2^80": header(size=base256(1 << 80)) + END,
    "a negative size": MEMBER + header(size=base256(-512 - len(MEMBER))) + END,
    "a size that is no number": MEMBER + header(size=b"zzzzzzzzzzz\0") + END,
    "a long name of 10 GB": header(size=10 << 30, kind=b"L"),
    "a long name of a negative size": header(size=base256(-1024), kind=b"L") + MEMBER + END,
    "a pax header of a negative size": header(size=base256(-512), kind=b"x") + MEMBER + END,
    "a pax header that says a negative size": pax(size="-5000") + MEMBER + END,
    "ten thousand pax headers in a row": pax(comment="x") * 10_000 + MEMBER + END,
    "a sparse member": pax(GNU_sparse_major="1", GNU_sparse_minor="0", GNU_sparse_realsize="9" * 12)
    + header("a.png", 512)
    + b"1\n0\n0\n".ljust(512, b"\0")
    + END,
    "zeros for ever": b"\0" * 100,
    "compressed": b"\x1f\x8b" + bytes(600),
    "cut": MEMBER + header("b.png", 4096) + b"x" * 100,
}


@pytest.mark.parametrize("name", SHARDS)
@pytest.mark.parametrize("use", ["embed", "evaluate", "train"])
def test_shards(tmp_path, name, use):
    file = tmp_path / "x.tar"
    file.write_bytes(SHARDS[name])
    with file.open("r+b") as stream:
        if "10 GB" in name:
            stream.truncate(11 << 30)  # of holes: it takes no room on the disk
    read = {"embed": items_of, "evaluate": open_images, "train": open_training_set}[use]
    if name == "a size of 10 GB" and use == "embed":  # which the file has by now
        (item,) = items_of(str(file))
        assert "at most 1,073,741,824 are read" in refused(item.read, None)
        return
    assert "x.tar" in refused(read, str(file))


@pytest.mark.parametrize("name", ["../../secret.png", "/etc/secret.png", "a/../../../secret.png", "link.png"])
def test_names_of_members_lead_nowhere(tmp_path, name):
    outside = tmp_path / "secret.png"
    outside.write_bytes(PNG)
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    shard = tmp_path / "deep" / "deeper" / "x.tar"
    with tarfile.open(shard, "w") as tar:
        for member, content in ((name, b"no picture"), (name.replace(".png", ".txt"), b"words")):
            info = tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"{kind.decode()}.png")
            info.type, info.linkname = kind, str(outside)
            tar.addfile(info)
    before = sorted(tmp_path.rglob("*"))
    (item,) = items_of(shard)
    assert "not an image" in refused(item.read, None)
    assert "not an image" in refused(open_training_set(str(shard)).__getitem__, 0)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_shard_in_a_shard_is_not_opened(tmp_path):
    (tmp_path / "inner.tar").write_bytes(MEMBER + END)
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "inner.tar", "inner.tar")
    assert "there are no images" in refused(items_of, tmp_path / "x.tar")


READERS = {
    "tar": [items_of, open_images, open_training_set],
    "csv": [items_of, open_images, read_captions],
    "jsonl": [items_of, read_captions],
    "json": [read_captions],
    "parquet": [items_of, read_vectors],
    "txt": [items_of],
    "npy": [read_vectors],
    "npz": [read_vectors],
    "safetensors": [read_vectors],
}


@pytest.mark.parametrize("ending", READERS)
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "itself"])
def test_what_is_no_regular_file(tmp_path, ending, kind):
    file = tmp_path / f"x.{ending}"
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to("/dev/zero" if kind == "device" else file.name)
    for read in READERS[ending]:
        refused(read, str(file))


# --- tables

LINES = {
    "nul.csv": b"image,caption\na\0.png,a\0b\n",
    "line.csv": b"image,caption\n" + b"x" * 30_000_000 + b",a\n",
    "name.csv": b"image,caption\n" + b"x" * 100_000 + b".png,a\n",
    "header.csv": b",".join(b"%d" % n for n in range(100_000)) + b"\n" + b"1," * 99_999 + b"1\n",
    "quote.csv": b'image,caption\na.png,"' + b"x" * 1_000_000,
    "bytes.csv": b"image,caption\n\xff\xfe.png,a\n",
    "utf16.csv": "image,caption\na.png,a\n".encode("utf-16"),
    "ragged.csv": b"image,caption\na.png\n",
    "deep.jsonl": b'{"image":' + b"[" * 100_000 + b"\n",
    "closed.jsonl": b'{"image":"a.png","caption":' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
    "digits.jsonl": b'{"image": "a.png", "caption": ' + b"9" * 10_000 + b"}\n",
    "item.jsonl": b'{"image": "a.png", "caption": 5, "x": "' + b"x" * 20_000_000 + b'"}\n',
    "keys.jsonl": b"{" + b",".join(b'"%d": 1' % n for n in range(100_000)) + b"}\n",
    "escape.jsonl": b'{"image": "\\u001b[2J\\n.png", "caption": "a"}\n',
    "half.jsonl": b'{"image": "\\ud800.png", "caption": "\\ud800"}\n',
    "list.jsonl": b'[1, {"image": "a.png"}]\n',
    "number.jsonl": b'{"image": 5, "caption": "a"}\n',
    "infinite.json": b'[{"image": Infinity, "caption": NaN}]',
    "deep.json": b"[" * 200_000,
    "digits.json": b"9" * 10_000,
    "coco.json": b'{"images": [{"id": [1], "file_name": "a"}], "annotations": [{"image_id": {}}]}',
    "split.json": b'{"images": [{"filename": "a", "filepath": 5, "sentences": [{"raw": 5}]}]}',
}


@pytest.mark.parametrize("name", LINES)
def test_tables(tmp_path, name):
    (tmp_path / name).write_bytes(LINES[name])
    assert name in refused(read_captions, tmp_path / name)
    if name.endswith(("csv", "jsonl")):
        # What is no caption is nothing to a list of images: then its pictures cannot be read.
        for item in read_or_refused(items_of, tmp_path / name):
            refused(item.read, None)


def test_tables_of_pipes_and_devices(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "x.txt").write_text(f"pipe.png\n/dev/zero\nfile://{tmp_path}/pipe.png\n")
    for item in items_of(tmp_path / "x.txt"):
        assert "not a regular file" in refused(item.read, None)


# --- Parquet


def table(path: Path, rows: int = 10) -> bytes:
    parquet.write_table(
        pa.table({"path": [f"{n}.png" for n in range(rows)], "embedding": [[1.0, 2.0]] * rows}), path
    )
    return path.read_bytes()


@pytest.mark.parametrize("cut", [0, 4, 8, 100, 0.5, 0.9, -1])
def test_parquet_that_is_cut(tmp_path, cut):
    path = tmp_path / "x.parquet"
    whole = table(path)
    path.write_bytes(whole[: int(len(whole) * cut) if isinstance(cut, float) else cut])
    refused(items_of, path)
    refused(read_vectors, path)


def test_parquet_with_any_bit_of_its_metadata_turned(tmp_path):
    """Each is read as it was meant, or refused; among them row groups and row counts beyond all measure."""
    path = tmp_path / "x.parquet"
    whole = table(path)
    length = struct.unpack("<I", whole[-8:-4])[0]
    random = np.random.default_rng(0)
    for _ in range(150):
        data = bytearray(whole)
        data[len(whole) - 8 - int(random.integers(length))] = int(random.integers(256))
        path.write_bytes(data)
        for read in (items_of, read_vectors):
            read_or_refused(read, path)


def test_parquet_of_few_bytes_and_very_many_rows(tmp_path, monkeypatch):
    path, rows = tmp_path / "x.parquet", 1 << 20
    lists = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(rows, dtype=np.float32)), 1)
    same = pa.array(["a.png"]).take(pa.array(np.zeros(rows, np.int32)))
    parquet.write_table(pa.table({"path": same, "embedding": lists}), path)
    assert path.stat().st_size < 40_000
    with bounded(500_000_000, 60):
        assert len(items_of(path)) == 1  # one picture, however often it is named
    monkeypatch.setattr("headword.data.tables.MAX_ROWS", rows - 1)
    monkeypatch.setattr("headword.extract.vectors.memory", lambda: 4 * rows - 1)
    assert "says it has 1,048,576 rows" in refused(items_of, path)
    assert "4,194,304 bytes, more than fit in memory" in refused(read_vectors, path)


# --- matrices


def npy(shape: str, kind: str = "'<f4'", version: bytes = b"\1\0") -> bytes:
    head = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    head = head.ljust(-(len(head) + 11) % 64 + len(head)) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(head)) + head + bytes(64)


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


class Payload:
    def __reduce__(self):
        return os.system, ("touch /tmp/headword-was-here",)


def bomb() -> bytes:
    """An archive that says of its array that it is of 100 TB: what a petabyte of zeros would be packed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy("(5000000, 5000000)"))
        archive.filelist[0].file_size = 100 << 40
    return buffer.getvalue()


ARRAYS = {
    "shape.npy": npy("(1000000000000, 1000000000000)"),
    "large.npy": npy("(100000, 100000)"),
    "negative.npy": npy("(-1, 4)"),
    "both.npy": npy("(-4, -4)"),
    "digits.npy": npy("(" + "9" * 5000 + ", 2)"),
    "deep.npy": npy("(" * 3000 + ")" * 3000),
    "code.npy": npy("__import__('os').system('touch /tmp/headword-was-here')"),
    "kind.npy": npy("(4, 4)", "'|O'"),
    "nested.npy": npy("(4, 4)", "[('a', '<f4', (1000000000,))]"),
    "odd.npy": npy("(4, 4)", "'<f999999999'"),
    "version.npy": npy("(4, 4)", version=b"\x09\0"),
    "pickle.npy": pickle.dumps(Payload()),
    "pickle.npz": zipped({"a.npy": pickle.dumps(Payload())}),
    "objects.npz": zipped({"a.npy": npy("(1, 1)", "'|O'") + pickle.dumps(Payload())}),
    "path.npz": zipped({"../../a.npy": npy("(1000, 1000)")}),
    "empty.npz": zipped({}),
    "cut.npz": zipped({"a.npy": npy("(4, 4)")})[:-30],
    "text.npz": zipped({"a.txt": b"hello"}),
    "header.safetensors": struct.pack("<Q", 1 << 60) + b"{" + bytes(100),
    "deep.safetensors": struct.pack("<Q", 90_000) + b'{"a":' + b"[" * 89_995,
    "offsets.safetensors": struct.pack("<Q", 69)
    + b'{"a": {"dtype": "F32", "shape": [99, 99], "data_offsets": [8, -9]}}  ',
    "shape.safetensors": struct.pack("<Q", 72)
    + b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}'[:72],
}


@pytest.mark.parametrize("name", ARRAYS)
def test_matrices(tmp_path, name):
    (tmp_path / name).write_bytes(ARRAYS[name])
    refused(read_vectors, tmp_path / name)
    assert not Path("/tmp/headword-was-here").exists()


def test_a_matrix_that_is_small_when_packed(tmp_path):
    (tmp_path / "bomb.npz").write_bytes(bomb())
    assert "memory" in refused(read_vectors, tmp_path / "bomb.npz")


def test_a_class_of_a_label_without_end(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for n, label in enumerate((b"1" * 5_000, b"2" * 5_000_000)):
            for name, content in ((f"{n}.png", PNG), (f"{n}.cls", label)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    with bounded(1_000_000_000, 20):
        assert len(open_images(str(tmp_path / "x.tar")).names) == 2

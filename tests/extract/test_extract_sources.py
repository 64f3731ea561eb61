"""Sources: folders, globs, tables, shards, data sets and URLs become items; `headword embed` takes them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headword.cli import app
from headword.data.safe_images import load_image
from headword.errors import HeadwordError
from headword.extract import extract_features
from headword.extract.given import items_of
from headword.extract.vectors import read_vectors
from support.extraction import draw, draw_many, tiny_vision


def ids(source: object) -> list[str]:
    return [item.id for item in items_of(source)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("source")
    draw_many(root, 3)
    draw(root / "sub" / "x.png", 7)
    (root / "sub" / "loop").symlink_to(root)
    return root


def test_folder_and_glob(folder):
    assert ids(folder) == ["0000.jpg", "0001.jpg", "0002.jpg", "sub/x.png"]
    assert ids(f"{folder}/*.jpg") == [f"{folder}/000{n}.jpg" for n in range(3)]
    assert ids(f"{folder}/0001.jpg") == [f"{folder}/0001.jpg"]
    assert items_of(folder)[0].path == str(folder / "0000.jpg")


def test_pictures_in_memory_and_lists(folder):
    assert ids([folder / "0000.jpg", load_image(folder / "0001.jpg")]) == [str(folder / "0000.jpg"), "1"]
    assert ids(items_of(folder)) == ids(folder)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet", "txt"])
def test_tables(kind, folder):
    rows = [{"id": f"no {n}", "filename": f"000{n}.jpg", "note": "a, b"} for n in range(3)]
    path = folder / f"table.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    elif kind == "txt":
        path.write_text("0000.jpg\n\n0001.jpg\n0002.jpg\n0001.jpg\n")
    elif kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        tab = "\t" if kind == "tsv" else ","
        path.write_text(
            f"id{tab}filename{tab}note\n"
            + "".join(f'{r["id"]}{tab}{r["filename"]}{tab}"{r["note"]}"\n' for r in rows)
        )
    items = items_of(path)
    expected = [f"000{n}.jpg" for n in range(3)] if kind == "txt" else [f"no {n}" for n in range(3)]
    assert [item.id for item in items] == expected
    assert [item.path for item in items] == [str(folder / f"000{n}.jpg") for n in range(3)]
    assert items[0].read(None).size == (48, 40)


def shard(path: Path, keys: list[str], kinds: tuple[str, ...] = ("jpg", "txt")) -> Path:
    with tarfile.open(path, "w") as tar:
        for n, key in enumerate(keys):
            for kind in kinds:
                data = draw(path.parent / "member.jpg", n).read_bytes() if kind != "txt" else b"a caption"
                member = tarfile.TarInfo(f"{key}.{kind}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def test_web_dataset_shards(tmp_path):
    for n in range(3):
        shard(tmp_path / f"x-{n:03d}.tar", [f"{n}/a", f"{n}/b"])
    both = ["x-000/0/a", "x-000/0/b", "x-001/1/a", "x-001/1/b"]
    assert ids(f"{tmp_path}/x-{{000..001}}.tar") == both
    assert ids(f"wds:{tmp_path}") == [*both, "x-002/2/a", "x-002/2/b"]
    item = items_of(f"{tmp_path}/x-001.tar")[1]
    assert item.path == f"{tmp_path}/x-001.tar::1/b.jpg"
    assert item.read(None).size == (48, 40)
    assert ids(shard(tmp_path / "two.tar", ["s"], ("jpg", "seg.png"))) == ["two/s", "two/s.seg.png"]
    done = extract_features(tiny_vision(), f"wds:{tmp_path}/x-{{000..002}}.tar", tmp_path / "store")
    assert (done.ok, done.unreadable) == (6, 0)
    (tmp_path / "cut.tar").write_bytes(b"\1" * 1000)
    with pytest.raises(HeadwordError, match=r"cut.tar is cut short, damaged, compressed, or no tar file"):
        items_of(tmp_path / "cut.tar")
    with pytest.raises(HeadwordError, match="there is no shard"):
        items_of(f"{tmp_path}/y-{{000..001}}.tar")


def test_hugging_face_data_set(tmp_path, folder):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict(
        {"picture": [str(folder / f"000{n}.jpg") for n in range(3)], "label": [0, 1, 0]}
    ).cast_column("picture", datasets.Image())
    assert ids(data) == ["0", "1", "2"]
    data.save_to_disk(tmp_path / "saved")
    items = items_of(f"hf:{tmp_path / 'saved'}")
    assert [item.id for item in items] == ["0", "1", "2"]
    assert ids(tmp_path / "saved") == ["0", "1", "2"]
    done = extract_features(tiny_vision(), data, tmp_path / "store")
    assert done.ok == 3
    extract_features(tiny_vision(), f"{folder}/*.jpg", tmp_path / "files")
    assert read_vectors(tmp_path / "store").values.equal(read_vectors(tmp_path / "files").values)
    with pytest.raises(HeadwordError, match="has no column of images; it has label"):
        items_of(data.remove_columns("picture"))


def test_urls(folder):
    pytest.importorskip("fsspec")
    assert ids(f"file://{folder}") == ids(folder)
    assert ids(f"file://{folder}/*.jpg") == [f"{folder}/000{n}.jpg" for n in range(3)]
    assert items_of(f"file://{folder}")[0].read(None).size == (48, 40)
    with pytest.raises(HeadwordError, match="cannot open nonsense://x"):
        items_of("nonsense://x/y")


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        ("name\n1\n", "x.csv", "no image column: it has name"),
        ('{"image": 3}\n', "x.jsonl", "x.jsonl:1: 3 is no image path"),
        ("{\n", "x.jsonl", "x.jsonl:1 is not valid JSON"),
        ("[1]\n", "x.jsonl", "is not an object"),
        ("id,image\n1,a.jpg\n1,b.jpg\n", "x.csv", "the id '1' names both"),
        ("image\n", "x.csv", "there are no images"),
        ("PAR1", "x.parquet", "is damaged or no Parquet"),
    ],
)
def test_bad_tables(content, name, said, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(HeadwordError, match=said):
        items_of(tmp_path / name)


def test_sources_that_are_not_there(tmp_path):
    for source in ("nowhere", f"{tmp_path}/*.jpg", tmp_path, tmp_path / "x.parquet", f"hf:{tmp_path}"):
        with pytest.raises(HeadwordError):
            items_of(source)


def test_missing_files_of_a_table_are_rows_with_a_status(tmp_path):
    draw(tmp_path / "images" / "a.jpg", 1)
    (tmp_path / "list.csv").write_text("image\na.jpg\nb.jpg\n")
    done = extract_features(tiny_vision(), tmp_path / "list.csv", tmp_path / "store")
    assert (done.ok, done.unreadable) == (1, 1)


def test_command_line(saved, folder, tmp_path):
    run = CliRunner()
    store = tmp_path / "store"
    said = run.invoke(
        app, ["embed", str(saved), str(folder), "--out", str(store), "--space", "shared", "--json", "-"]
    )
    assert said.exit_code == 0, said.output
    result = json.loads(said.stdout)
    assert result["command"] == "embed"
    assert result["metrics"]["ok"] == 4
    assert (result["engine"], result["precision"]) == ("torch", "float32")
    values = read_vectors(store).values
    assert values.norm(dim=1).allclose(values.new_ones(4))
    again = run.invoke(app, ["embed", str(saved), str(folder), "-o", str(store), "--space", "shared"])
    assert "of an earlier run" in again.output
    other = run.invoke(app, ["embed", str(saved), str(folder), "-o", str(store)])
    assert other.exit_code == 2
    assert "made with another space" in other.output
    (folder / "broken.jpg").write_bytes(b"?")
    try:
        more = run.invoke(app, ["embed", str(saved), str(folder), "-o", str(store), "--space", "shared"])
    finally:
        (folder / "broken.jpg").unlink()
    assert "5, of which 4 embedded and 1 unreadable" in more.output
    no_model = run.invoke(
        app, ["embed", "embedded", str(folder), "-o", str(tmp_path / "x"), "--space", "shared"]
    )
    assert no_model.exit_code == 2
    assert "is no saved model" in no_model.output

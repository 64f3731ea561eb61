"""Matrices and pairs on disk: what comes back equals what was written, and nothing is unpickled."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from headword.aligners.pairs import Pairs
from headword.errors import HeadwordError
from headword.extract.vectors import load_pairs, read_vectors, save_pairs
from headword.files import save_tensors

X = np.arange(12, dtype=np.float32).reshape(4, 3)
IDS = ["a", "b", "c", "é"]


def refusal(path: Path, **options: str) -> str:
    with pytest.raises(HeadwordError) as caught:
        read_vectors(path, **options)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def table(path: Path, columns: dict[str, object]) -> Path:
    path.parent.mkdir(exist_ok=True)
    parquet.write_table(pa.table(columns), path)
    return path


def fixed(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), kind), values.shape[1])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "uint8", ">f4"])
def test_numpy(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "x.npy", X.astype(dtype))
    values, ids = read_vectors(tmp_path / "x.npy")
    assert values.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    assert torch.equal(values.float(), torch.from_numpy(X))
    assert ids is None


def test_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", features=np.asfortranarray(X), ids=np.array(IDS), labels=np.arange(4))
    values, ids = read_vectors(tmp_path / "one.npz")
    assert torch.equal(values, torch.from_numpy(X))
    assert ids == tuple(IDS)
    np.savez_compressed(tmp_path / "two.npz", image=X, text=X * 2)
    assert torch.equal(read_vectors(tmp_path / "two.npz", key="text").values, torch.from_numpy(X * 2))
    assert "must hold one matrix" in refusal(tmp_path / "two.npz")
    said = refusal(tmp_path / "two.npz", key="sound")
    assert said.endswith("has no array 'sound'; it has image [4, 3], text [4, 3]")


def test_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"features": torch.from_numpy(X).bfloat16(), "scale": torch.ones(1)})
    values, ids = read_vectors(path)
    assert torch.equal(values, torch.from_numpy(X))
    assert ids is None
    assert "it has features [4, 3], scale [1]" in refusal(path, key="text")
    assert "holds float32 [1], not a matrix" in refusal(path, key="scale")


@pytest.mark.parametrize(
    "embedding",
    [
        fixed(X, pa.float32()),
        fixed(X, pa.float16()),
        fixed(X, pa.float64()),
        pa.array(X.tolist(), pa.list_(pa.float32())),
        pa.array(X.tolist(), pa.large_list(pa.float64())),
        pa.chunked_array([pa.array(X[:1].tolist()), pa.array(X[1:].tolist())]),
    ],
)
def test_parquet(tmp_path: Path, embedding: object) -> None:
    path = table(tmp_path / "x.parquet", {"id": IDS, "embedding": embedding, "path": IDS})
    values, ids = read_vectors(path)
    assert torch.equal(values.float(), torch.from_numpy(X))
    assert ids == tuple(IDS)


def test_parquet_without_names_and_with_another_column(tmp_path: Path) -> None:
    path = table(tmp_path / "x.parquet", {"text": X.tolist()})
    assert read_vectors(path, key="text").ids is None
    assert "has no column 'embedding'; it has text" in refusal(path)


def test_a_feature_store(tmp_path: Path) -> None:
    store = tmp_path / "store"
    for part, rows in enumerate([slice(0, 1), slice(1, 4)]):
        table(store / f"part-{part:05}.parquet", {"id": IDS[rows], "embedding": fixed(X[rows], pa.float32())})
    (store / "_headword.json").write_text("{}")
    values, ids = read_vectors(store)
    assert torch.equal(values, torch.from_numpy(X))
    assert ids == tuple(IDS)
    table(store / "part-00002.parquet", {"id": ["x"], "embedding": fixed(X[:1, :2], pa.float32())})
    assert "differ in width: 2, 3" in refusal(store)
    (tmp_path / "empty").mkdir()
    assert "no part-*.parquet" in refusal(tmp_path / "empty")


def test_failed_rows_of_a_feature_store_are_left_out(tmp_path: Path) -> None:
    rows = [X[0].tolist(), None, X[2].tolist()]
    for kind in (pa.list_(pa.float32(), 3), pa.list_(pa.float32())):
        embedding = pa.array(rows, kind)
        status = ["ok", "damaged", "ok"]
        path = table(tmp_path / "x.parquet", {"id": IDS[:3], "embedding": embedding, "status": status})
        values, ids = read_vectors(path)
        assert torch.equal(values, torch.from_numpy(X[[0, 2]]))
        assert ids == ("a", "c")
        path = table(tmp_path / "y.parquet", {"id": IDS[:3], "embedding": embedding})
        assert "1 of 3 rows have no embedding" in refusal(path)


def test_parts_without_a_good_row_are_passed_over(tmp_path: Path) -> None:
    nothing = pa.array([None], pa.list_(pa.float32()))
    columns = {"id": ["x"], "embedding": nothing, "status": ["damaged"]}
    table(tmp_path / "store" / "part-0.parquet", columns)
    assert "holds no numbers" in refusal(tmp_path / "store")
    table(tmp_path / "store" / "part-1.parquet", {"id": IDS, "embedding": X.tolist(), "status": ["ok"] * 4})
    assert read_vectors(tmp_path / "store").ids == tuple(IDS)


def test_tables_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    assert "differ in length" in refusal(table(path, {"embedding": [[1.0], [1.0, 2.0]]}))
    assert "holds double, not lists" in refusal(table(path, {"embedding": [1.0, 2.0]}))
    assert "not a matrix of numbers" in refusal(table(path, {"embedding": [["a"], ["b"]]}))
    assert "1 of 2 rows have a NaN" in refusal(table(path, {"embedding": [[1.0], [None]]}))
    path.write_bytes(path.read_bytes()[:-20])
    assert "damaged or no Parquet file" in refusal(path)


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("the pickle was opened",))


def pickled() -> bytes:
    return pickle.dumps(Bomb())


def object_array(kind: str) -> bytes:
    buffer = io.BytesIO()
    (np.savez if kind == "npz" else np.save)(buffer, np.array([[Bomb()]], dtype=object))
    return buffer.getvalue()


def checkpoint() -> bytes:
    buffer = io.BytesIO()
    torch.save(Bomb(), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.npy", pickled()),
        ("x.npy", object_array("npy")),
        ("x.npz", pickled()),
        ("x.npz", object_array("npz")),
        ("x.safetensors", checkpoint()),
    ],
)
def test_pickles_are_refused_and_never_opened(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert "pickle" in refusal(tmp_path / name)


def test_other_refusals(tmp_path: Path) -> None:
    for name in ("x.npy", "x.npz", "x.safetensors", "x.parquet"):
        assert "there is no file" in refusal(tmp_path / name)
        (tmp_path / name).write_bytes(b"")
        refusal(tmp_path / name)
        (tmp_path / name).write_bytes(b"nonsense" * 20)
        refusal(tmp_path / name)
    assert "known are .npy" in refusal(tmp_path / "x.pt")
    np.savez(tmp_path / "cut.npz", X=np.random.default_rng(0).normal(size=(50, 50)))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:-500])
    refusal(tmp_path / "cut.npz")
    np.save(tmp_path / "npy.npz", X)
    (tmp_path / "npy.npz.npy").rename(tmp_path / "npy.npz")
    assert "name it .npy" in refusal(tmp_path / "npy.npz")
    np.savez(tmp_path / "npz.npz", X)
    (tmp_path / "npz.npz").rename(tmp_path / "npz.npy")
    assert "name it .npz" in refusal(tmp_path / "npz.npy")


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros(3), r"holds float64 [3], not a matrix"),
        (np.zeros((2, 3, 4)), r"holds float64 [2, 3, 4], not a matrix"),
        (np.array([["a", "b"]]), "holds <U1 [1, 2], not a matrix"),
        (np.zeros((2, 2), dtype=complex), "holds complex128 [2, 2], not a matrix"),
        (np.zeros((0, 3)), "holds no numbers: its matrix is [0, 3]"),
        (np.array([[1.0], [np.inf]]), "1 of 2 rows have a NaN or infinite value, the first is row 1"),
    ],
)
def test_arrays_that_are_no_matrices_of_numbers(tmp_path: Path, array: np.ndarray, said: str) -> None:
    np.save(tmp_path / "x.npy", array)
    assert said in refusal(tmp_path / "x.npy")


def test_ids_must_fit(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", X=X, ids=np.array(IDS[:2]))
    assert "has 4 rows and 2 ids" in refusal(tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", X=X, ids=np.arange(4))
    assert "ids must be a list of texts, not int64 [4]" in refusal(tmp_path / "x.npz")
    bad = X.copy()
    bad[2, 0] = np.nan
    np.savez(tmp_path / "x.npz", X=bad, ids=np.array(IDS))
    assert "the first is row 2 ('c')" in refusal(tmp_path / "x.npz")


# --- pairs


@given(
    n=st.integers(1, 6),
    widths=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    texts=st.lists(st.text(max_size=8), min_size=6, max_size=6),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_pairs_come_back_bit_equal(
    tmp_path_factory: pytest.TempPathFactory,
    n: int,
    widths: tuple[int, int],
    dtype: torch.dtype,
    texts: list[str],
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    image, text = (torch.randn(n, width, generator=generator).to(dtype) for width in widths)
    pairs = Pairs(image, text, tuple(texts[:n]), ("head",) * n, torch.rand(n, generator=generator) + 0.1)
    path = tmp_path_factory.mktemp("pairs") / "pairs.safetensors"
    save_pairs(pairs, path)
    loaded = load_pairs(path)
    for side in ("image", "text", "weight"):
        assert torch.equal(getattr(loaded, side), getattr(pairs, side))
        assert getattr(loaded, side).dtype == getattr(pairs, side).dtype
    assert (loaded.names, loaded.source) == (pairs.names, pairs.source)


def test_files_without_pairs(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"weight": torch.zeros(1)})
    with pytest.raises(HeadwordError, match="holds no pairs; it has weight"):
        load_pairs(path)
    save_tensors(path, {"weight": torch.zeros(1)}, {"kind": "pairs", "format": 2})
    with pytest.raises(HeadwordError, match="format 2, but this headword reads format 1; update"):
        load_pairs(path)
    save_tensors(path, {"weight": torch.zeros(1)}, {"kind": "pairs", "format": 1})
    with pytest.raises(HeadwordError, match="damaged"):
        load_pairs(path)
    with pytest.raises(HeadwordError, match="there is no file"):
        load_pairs(tmp_path / "missing.safetensors")

"""Files that are whole or not there, and one clear line for every damaged one."""

from __future__ import annotations

import errno
import io
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from headword import files
from headword.errors import HeadwordError


def names_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_new_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "model"
    with files.new_folder(target) as temporary:
        assert temporary.parent == target.parent  # a sibling, so that the rename is atomic
        assert not target.exists()
        (temporary / "headword.json").write_text("{}")
    assert names_in(target) == ["headword.json"]
    assert names_in(target.parent) == ["model"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_new_folder_leaves_nothing_behind_on_failure(tmp_path: Path, error: type[BaseException]) -> None:
    def half() -> None:
        with files.new_folder(tmp_path / "a" / "b") as temporary:
            (temporary / "half").write_text("half")
            raise error

    with pytest.raises(error):
        half()
    assert names_in(tmp_path) == []


def test_new_folder_keeps_parents_that_others_use(tmp_path: Path) -> None:
    def half() -> None:
        with files.new_folder(tmp_path / "a" / "b"):
            (tmp_path / "a" / "theirs").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert names_in(tmp_path / "a") == ["theirs"]


def test_new_folder_takes_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with files.new_folder(tmp_path / "out") as temporary:
        (temporary / "x").write_text("x")
    assert names_in(tmp_path / "out") == ["x"]


def test_new_folder_refuses_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years")
    (tmp_path / "file").write_text("x")
    ran = []
    for path, overwrite, said in [
        ("full", False, "already exists"),
        ("full", True, "no headword.json"),
        ("file", True, "is a file"),
        ("file/below", False, "cannot"),
    ]:
        with (
            pytest.raises(HeadwordError, match=said),
            files.new_folder(tmp_path / path, overwrite=overwrite),
        ):
            ran.append(path)
    assert ran == []
    assert names_in(tmp_path) == ["file", "full"]
    assert names_in(tmp_path / "full") == ["thesis.tex"]


def own_folder(tmp_path: Path) -> Path:
    target = tmp_path / "model"
    with files.new_folder(target) as temporary:
        (temporary / "headword.json").write_text("old")
        (temporary / "old").write_text("old")
    return target


def test_overwrite_swaps_headwords_own_folder(tmp_path: Path) -> None:
    target = own_folder(tmp_path)
    with files.new_folder(target, overwrite=True) as temporary:
        assert (target / "old").exists()  # the old one stands until the new one is whole
        (temporary / "headword.json").write_text("new")
    assert names_in(target) == ["headword.json"]
    assert names_in(tmp_path) == ["model"]


def test_overwrite_that_fails_keeps_the_old_folder(tmp_path: Path) -> None:
    target = own_folder(tmp_path)
    with pytest.raises(RuntimeError), files.new_folder(target, overwrite=True):
        raise RuntimeError
    assert names_in(target) == ["headword.json", "old"]
    assert names_in(tmp_path) == ["model"]


def test_overwrite_that_cannot_rename_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = own_folder(tmp_path)
    rename = Path.rename

    def failing(self: Path, to: Path) -> Path:
        if self.suffix == ".tmp":
            raise OSError("no")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="no"), files.new_folder(target, overwrite=True):
        pass
    assert names_in(target) == ["headword.json", "old"]
    assert names_in(tmp_path) == ["model"]


def test_new_folder_never_replaces_what_another_program_wrote_meanwhile(tmp_path: Path) -> None:
    target = tmp_path / "model"

    def raced() -> None:
        with files.new_folder(target):
            target.mkdir()
            (target / "theirs").write_text("x")

    with pytest.raises(HeadwordError, match="already exists"):
        raced()
    assert names_in(target) == ["theirs"]
    assert names_in(tmp_path) == ["model"]


def test_overwrite_through_a_link_replaces_the_folder_and_keeps_the_link(tmp_path: Path) -> None:
    target = own_folder(tmp_path)
    link = tmp_path / "link"
    link.symlink_to(target, target_is_directory=True)
    with files.new_folder(link, overwrite=True) as temporary:
        (temporary / "headword.json").write_text("new")
    assert link.is_symlink()
    assert names_in(target) == ["headword.json"]


def test_write_text_atomic(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.json"
    files.write_text_atomic(path, "één\n")
    files.write_text_atomic(path, "twee\n")
    assert path.read_bytes() == b"twee\n"
    assert names_in(path.parent) == ["result.json"]
    with pytest.raises(HeadwordError, match="is a folder"):
        files.write_text_atomic(path.parent, "x")


def test_write_text_atomic_keeps_the_old_file_on_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "page.html"
    files.write_text_atomic(path, "old")
    with pytest.raises(UnicodeEncodeError):
        files.write_text_atomic(path, "half \ud800")

    def refuse(self: Path, to: Path) -> Path:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(HeadwordError, match=r"cannot write .*page\.html: Permission denied"):
        files.write_text_atomic(path, "new")
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["page.html"]


def test_overwrite_refuses_a_folder_that_holds_other_things(tmp_path: Path) -> None:
    target = own_folder(tmp_path)
    (target / "thesis.tex").write_text("years")
    with (
        pytest.raises(HeadwordError, match=r"it holds 'thesis\.tex', which headword did not write"),
        files.new_folder(target, overwrite=True, known=("old",)),
    ):
        pytest.fail("the block ran")
    assert names_in(target) == ["headword.json", "old", "thesis.tex"]
    (target / "thesis.tex").unlink()
    with files.new_folder(target, overwrite=True, known=("old",)):
        pass
    assert names_in(target) == []


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "write_text", full_disk)

    def write_folder() -> None:
        with files.new_folder(tmp_path / "a" / "b") as folder:
            (folder / "x").write_text("x")

    with pytest.raises(HeadwordError, match=r"cannot write .*/a/b: No space left on device"):
        write_folder()
    with pytest.raises(HeadwordError, match=r"cannot write .*/a/x: No space left on device"):
        files.write_text_atomic(tmp_path / "a" / "x", "x")
    assert names_in(tmp_path) == []


def test_full_disk_while_tensors_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch
    from safetensors import SafetensorError

    def fail(*_: object) -> None:
        raise SafetensorError("Error while serializing:\nI/O error: No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(HeadwordError, match=r"cannot write .*x\.safetensors: .*No space left") as caught:
        files.save_tensors(tmp_path / "a" / "x.safetensors", {"a": torch.zeros(1)})
    assert "\n" not in str(caught.value)

    def write_folder() -> None:
        with files.new_folder(tmp_path / "b"):
            fail()

    with pytest.raises(HeadwordError, match=r"cannot write .*/b: .*No space left"):
        write_folder()
    assert names_in(tmp_path) == []


def test_errors_of_other_files_are_not_said_to_be_of_the_new_folder(tmp_path: Path) -> None:
    def read_another() -> None:
        with files.new_folder(tmp_path / "b"):
            (tmp_path / "missing").read_text()

    with pytest.raises(FileNotFoundError):
        read_another()


def test_check_new_folder_looks_at_the_nearest_folder_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(HeadwordError, match="file is a file"):
        files.check_new_folder(tmp_path / "file" / "below" / "deep")
    files.check_new_folder(tmp_path / "new" / "deep")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(HeadwordError, match=f"no permission to write in {tmp_path}$"):
        files.check_new_folder(tmp_path / "new" / "deep")


def test_unknown_home_folder() -> None:
    for use in (files.expand, files.read_text, files.check_new_folder):
        with pytest.raises(HeadwordError, match=r"~nosuchuser/x: there is no such user"):
            use("~nosuchuser/x")


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("x")
    files.save_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)})
    with files.new_folder(tmp_path / "m") as folder:
        (folder / "sub").mkdir(mode=0o700)
        (folder / "sub" / "private").touch(mode=0o600)
    expected = plain.stat().st_mode
    assert (tmp_path / "x.safetensors").stat().st_mode == expected
    assert (tmp_path / "m" / "sub" / "private").stat().st_mode == expected
    assert (tmp_path / "m" / "sub").stat().st_mode == (tmp_path / "m").stat().st_mode


def test_sha256(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert files.sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(HeadwordError, match="there is no file"):
        files.sha256(tmp_path / "missing")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b'{"a": 1,\n "b": }', r"x\.json:2 is not valid JSON"),
        (b"", r"x\.json:1 is not valid JSON"),
        (b'{"a": 1,\n "b": "\xff"}', r"x\.json:2 is not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_read_json_names_the_line(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(HeadwordError, match=said):
        files.read_json(path)


def test_read_json(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b'\xef\xbb\xbf{"a": [1]}')
    assert files.read_json(tmp_path / "x.json") == {"a": [1]}
    with pytest.raises(HeadwordError, match="there is no file"):
        files.read_json(tmp_path / "missing.json")
    with pytest.raises(HeadwordError, match="is a folder"):
        files.read_json(tmp_path)


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    path.write_text("{}")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(HeadwordError, match="permission denied"):
        files.read_json(path)


def test_tensors_round_trip_bit_equal_with_equal_bytes(tmp_path: Path) -> None:
    base = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    tensors = {
        "half": base[:3],
        "turned": base.T,
        "all": base,
        "int": torch.tensor([1, 2]),
        "one": base[0, 0],
    }
    metadata = {"names": ["zee", "é"], "n": 3}
    files.save_tensors(tmp_path / "a.safetensors", tensors, metadata)
    files.save_tensors(tmp_path / "b.safetensors", tensors, dict(reversed(metadata.items())))
    assert files.sha256(tmp_path / "a.safetensors") == files.sha256(tmp_path / "b.safetensors")
    loaded = files.load_tensors(tmp_path / "a.safetensors")
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert files.read_metadata(tmp_path / "a.safetensors") == metadata
    assert names_in(tmp_path) == ["a.safetensors", "b.safetensors"]


def test_metadata_of_other_peoples_files(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "theirs.safetensors", {"format": "pt"})
    save_file({"a": torch.zeros(1)}, tmp_path / "bad.safetensors", {"headword": "{"})
    assert files.read_metadata(tmp_path / "plain.safetensors") == {}
    assert files.read_metadata(tmp_path / "theirs.safetensors") == {"format": "pt"}
    with pytest.raises(HeadwordError, match="damaged"):
        files.read_metadata(tmp_path / "bad.safetensors")


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("the pickle was opened",))


def checkpoint() -> bytes:
    buffer = io.BytesIO()
    torch.save({"bomb": Bomb()}, buffer)
    return buffer.getvalue()


def header(entry: object, tail: bytes = b"") -> bytes:
    said = entry if isinstance(entry, bytes) else json.dumps(entry).encode()
    return len(said).to_bytes(8, "little") + said + tail


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (checkpoint(), "is a pickle"),
        (pickle.dumps(Bomb(), protocol=2), "is a pickle"),
        (pickle.dumps(Bomb(), protocol=4), "is a pickle"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"not at all what was meant", "is not a safetensors file"),
        (header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, b"\0" * 12), "cut short"),
        (header({"a": 1})[:-2], "cut short"),
        (header(b"{nonsense"), "damaged"),
        (header(b"{\xff\xff}"), "damaged"),
        (header({"a": {"dtype": "F32"}}), "damaged"),
        (header({"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 4), "damaged"),
    ],
)
def test_load_tensors_refuses_in_one_line_and_never_unpickles(tmp_path: Path, data: bytes, said: str) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(data)
    with pytest.raises(HeadwordError, match=said) as caught:
        files.load_tensors(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_load_tensors_missing(tmp_path: Path) -> None:
    with pytest.raises(HeadwordError, match="there is no file"):
        files.load_tensors(tmp_path / "x.safetensors")


def test_a_header_that_starts_like_a_pickle_is_read(tmp_path: Path) -> None:
    # A header of 0x0280 bytes makes the file start with 80 02, as a pickle of protocol 2 does.
    entry = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    said = json.dumps(entry).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(header(said + b" " * (0x280 - len(said)), b"\0" * 4))
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert torch.equal(files.load_tensors(path)["a"], torch.zeros(1))


def test_importing_files_does_not_import_torch() -> None:
    code = "import sys, headword.files; assert not {'torch', 'numpy', 'safetensors'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

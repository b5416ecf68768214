"""Settings, errors and storage."""

from __future__ import annotations

import errno
import os
import pickle
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import Field, ValidationError

from ufgvc.core.config import Settings, flatten, load_yaml, select_fields, short_key
from ufgvc.core.errors import UnreadableFile, UserError, user_error_in
from ufgvc.core.parquet import read_parquet_rows, write_parquet_file
from ufgvc.core.registry import Registry
from ufgvc.core.storage import open_store


class Inner(Settings):
    rate: float = Field(0.1, gt=0)


class Outer(Settings):
    inner: Inner = Inner()
    name: str = "x"


def test_settings_are_closed_and_frozen() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        Outer.model_validate({"nam": "y"})
    with pytest.raises(ValidationError):
        Outer().name = "y"  # type: ignore[misc]


def test_the_key_depends_on_content_only() -> None:
    assert short_key({"a": 1, "b": 2}) == short_key({"b": 2, "a": 1})
    assert short_key({"a": 1}) != short_key({"a": 2})
    assert len(short_key(Outer())) == 12


def test_flatten() -> None:
    assert flatten({"a": {"b": 1, "c": [1, 2]}, "d": None}) == {"a.b": 1, "a.c": "[1, 2]", "d": None}


def test_part_takes_what_a_section_declares() -> None:
    class Wide(Outer):
        more: int = 3

    assert select_fields(Outer, Wide(name="z")) == Outer(name="z")


@pytest.mark.parametrize(("text", "says"), [("a: [1", "not valid YAML"), ("- 1", "key: value")])
def test_bad_yaml_is_one_message(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=says) as caught:
        load_yaml(file)
    assert str(file) in str(caught.value)


def test_a_user_error_survives_pickling_and_wrapping() -> None:
    original = UserError("what", where="here", fix="do")
    copy = pickle.loads(pickle.dumps(original))
    assert str(copy) == str(original) == "here: what\n  -> do"
    outer = RuntimeError("task failed")
    outer.__cause__ = copy
    assert user_error_in(outer) is copy
    assert user_error_in(ValueError("ours")) is None


def test_registry_names_what_it_knows() -> None:
    known: Registry[int] = Registry("number")
    known.register("one")(1)
    with pytest.raises(UserError, match="no number named 'two'") as caught:
        known.get("two")
    assert "one" in str(caught.value)
    with pytest.raises(ValueError, match="twice"):
        known.register("one")(1)


def test_local_store(tmp_path: Path) -> None:
    store = open_store(tmp_path / "not-yet-there")
    assert store.list() == []
    assert not store.exists("a")
    store.write_json("deep/er/a.json", {"ä": 1})
    store.write_bytes("b", b"12")
    assert store.list() == ["b", "deep/er/a.json"]
    assert store.child("deep").read_json("er/a.json") == {"ä": 1}
    assert store.size("b") == 2
    store.delete_tree("deep")
    store.delete("b")
    assert store.list() == []
    with pytest.raises(FileNotFoundError):
        store.read_bytes("b")


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.write_bytes("a", b"old")

    def write_half() -> None:
        with store.writer("a") as file:
            file.write(b"new")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_half()
    assert store.read_bytes("a") == b"old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/passwd"])
def test_names_stay_in_their_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="leave its folder"):
        open_store(tmp_path).write_bytes(name, b"")


def test_upload_and_download(tmp_path: Path) -> None:
    (tmp_path / "from" / "x").mkdir(parents=True)
    (tmp_path / "from" / "x" / "y.txt").write_text("hello")
    store = open_store(tmp_path / "store")
    store.upload(tmp_path / "from", "copy")
    store.download(tmp_path / "to", "copy")
    assert (tmp_path / "to" / "x" / "y.txt").read_text() == "hello"


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (3, 4), (2, 9), (9, 10), (0, 10)])
def test_rows_of_a_part(tmp_path: Path, start: int, stop: int) -> None:
    store = open_store(tmp_path)
    write_parquet_file(store, "p.parquet", pa.table({"n": list(range(10))}), row_group_size=3)
    assert read_parquet_rows(store, "p.parquet", start, stop)["n"].to_pylist() == list(range(start, stop))


def test_an_address_without_a_bucket() -> None:
    with pytest.raises(UserError, match="names no bucket"):
        open_store("s3://")


@pytest.mark.parametrize("name", ["file/below", "file/below/deeper", "folder", "loop/a", "n" * 300, "null\0"])
def test_a_name_that_cannot_be_written_is_one_message(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError) as caught:
        open_store(tmp_path).write_bytes(name, b"1")
    assert caught.value.fix
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "loop"]


@pytest.mark.parametrize(
    ("name", "kind"), [("file/below/deeper", UserError), ("folder", UnreadableFile), ("loop", UnreadableFile)]
)
def test_a_file_for_a_folder_and_the_reverse(tmp_path: Path, name: str, kind: type[UserError]) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    store = open_store(tmp_path)
    for read in (store.read_bytes, store.open_input):
        with pytest.raises(kind, match=rf"/{name.split('/')[0]}: "):
            read(name)
    with pytest.raises(UserError, match="is a file, where a folder is needed"):
        open_store(tmp_path / "file").list()
    with pytest.raises(UserError, match="is a file, where a folder is needed"):
        open_store(tmp_path / "file").read_json("dataset.json")


def test_a_name_that_is_no_text_is_one_message(tmp_path: Path) -> None:
    open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", "w").close()
    with pytest.raises(UserError, match=r"not UTF-8.*caf"):
        open_store(tmp_path).list()


def test_a_long_name_can_be_written(tmp_path: Path) -> None:
    open_store(tmp_path).write_bytes("n" * 255, b"1")
    assert open_store(tmp_path).list() == ["n" * 255]


def test_a_disks_refusal_is_found_where_it_is_the_cause_only() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    wrapped = RuntimeError("task failed")
    wrapped.__cause__ = full
    found = user_error_in(wrapped, "runs")
    assert found is not None
    assert "runs: no space is left" in str(found)
    bug = TypeError("a bug that came up while the disk's error was handled")
    bug.__context__ = full
    assert user_error_in(bug) is None
    assert user_error_in(PermissionError(errno.EACCES, "a port, no file")) is None
    assert "/x: access is refused" in str(user_error_in(PermissionError(errno.EACCES, "Permission denied", "/x")))
    assert type(pickle.loads(pickle.dumps(UnreadableFile("a", where="b")))) is UnreadableFile

"""The whole Store on two S3 servers: moto's, and rclone's, which checks signatures and turns directory markers into
files.
"""

from __future__ import annotations

import contextlib
import gc
import pickle
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from tests.integration.s3_servers import SECRET, client_of, keys_in, new_bucket, use_server
from ufgvc.core.errors import UserError
from ufgvc.core.parquet import read_parquet_file, read_parquet_rows, write_parquet_file
from ufgvc.core.s3 import _DELETE_BATCH
from ufgvc.core.storage import Store, open_store
from ufgvc.data.readers.scan import scan

BIG = 20 << 20  # more than one part of an upload, and more than a writer keeps in memory


@pytest.fixture
def endpoint(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    server = getattr(request, "param", "moto")
    url: str = request.getfixturevalue("s3_endpoint" if server == "moto" else "rclone_endpoint")
    return use_server(url, monkeypatch)


# rclone differs in directory markers, in signatures (of odd names and of parts), in ranges and in copies.
both_servers = pytest.mark.parametrize("endpoint", ["moto", "rclone"], indirect=True)


@pytest.fixture
def bucket(endpoint: str) -> str:
    return new_bucket(endpoint)


@pytest.fixture
def store(bucket: str) -> Store:
    return open_store(f"s3://{bucket}/some/place")


@both_servers
def test_write_read_list_size_exists(store: Store, endpoint: str, bucket: str) -> None:
    assert not store.is_local
    assert store.list() == []
    assert not store.exists("a/b.txt")
    store.write_bytes("a/b.txt", b"leaf")
    store.write_json("a/c/d.json", {"ä": [1, 2]})
    store.write_bytes("empty", b"")
    assert store.list() == ["a/b.txt", "a/c/d.json", "empty"]
    assert store.list("a") == ["a/b.txt", "a/c/d.json"]
    assert store.list("a", recursive=False) == ["a/b.txt"]
    assert store.list("nothing") == []
    assert store.child("a").list() == ["b.txt", "c/d.json"]
    assert store.child("") == store
    assert store.read_bytes("a/b.txt") == b"leaf"
    assert store.child("a", "c").read_json("d.json") == {"ä": [1, 2]}
    assert (store.size("a/b.txt"), store.size("empty")) == (4, 0)
    assert store.exists("a/b.txt")
    assert store.exists("a")
    assert not store.exists("a/b")
    store.write_bytes("a/b.txt", b"another leaf")
    assert store.read_text("a/b.txt") == "another leaf"
    assert keys_in(endpoint, bucket) == ["some/place/a/b.txt", "some/place/a/c/d.json", "some/place/empty"]


@pytest.mark.parametrize(
    "read", [Store.read_bytes, Store.read_json, Store.size, Store.open_input], ids=lambda read: read.__name__
)
def test_what_is_not_there_is_file_not_found(store: Store, read: Callable[[Store, str], object]) -> None:
    store.write_bytes("folder/file", b"1")
    for name in ("nothing", "folder"):
        with pytest.raises(FileNotFoundError):
            read(store, name)


@both_servers
@pytest.mark.parametrize(
    "name", ["Gossypium hirsutum.jpg", "a+b/c=d.png", "Blätter/叶子.png", "100%25.txt", "it's (1) #2 & 3.txt"]
)
def test_names_that_people_give_files(store: Store, name: str) -> None:
    store.write_bytes(name, b"1")
    assert store.list() == [name]
    assert store.read_bytes(name) == b"1"
    store.delete(name)
    assert store.list() == []


@both_servers
def test_deletes_leave_their_siblings_visible(store: Store, endpoint: str, bucket: str) -> None:
    for name in ("run/old/1", "run/old/deep/2", "run/new/3", "run/file", "run-b/4"):
        store.write_bytes(name, b"x")
    store.delete_tree("run/old")
    assert store.list() == ["run-b/4", "run/file", "run/new/3"]
    assert store.read_bytes("run/new/3") == b"x"
    assert not store.exists("run/old")
    store.delete("run/file", "run/not-there")
    assert store.list("run") == ["run/new/3"]
    store.delete_tree("run/not-there")
    store.delete_tree("run")
    assert store.list() == ["run-b/4"]
    assert keys_in(endpoint, bucket) == ["some/place/run-b/4"]


@both_servers
def test_what_ray_does_with_folders_writes_no_markers(store: Store, endpoint: str, bucket: str) -> None:
    store.fs.create_dir(store.full("checkpoints/one"), recursive=True)
    assert keys_in(endpoint, bucket) == []
    for name in ("checkpoints/one/a", "checkpoints/two/a"):
        store.write_bytes(name, b"1")
    store.fs.delete_dir(store.full("checkpoints/one"))
    store.fs.move(store.full("checkpoints/two/a"), store.full("checkpoints/two/b"))
    store.fs.delete_dir_contents(store.full("nothing"), missing_dir_ok=True)
    assert keys_in(endpoint, bucket) == ["some/place/checkpoints/two/b"]
    with pytest.raises(PermissionError):
        store.fs.delete_dir_contents("", accept_root_dir=True)


def test_a_listing_of_several_answers(s3: str, s3_environment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ufgvc.core.s3._LIST_BATCH", 2)
    store = open_store(s3)
    names = ["a b.jpg", "folder/1.jpg", "folder/deeper/ü+%.jpg", "x.jpg", "z.txt"]
    for size, name in enumerate(names):
        store.write_bytes(name, b"x" * size)
    files = scan(store)
    assert dict(files.sizes) == {name: size for size, name in enumerate(names)}
    assert files.modified.numbers.min() > 10**18


def test_more_deletes_than_one_request_may_hold(s3: str, s3_environment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _DELETE_BATCH == 1000, "the limit of S3"
    monkeypatch.setattr("ufgvc.core.s3._DELETE_BATCH", 5)
    bucket = s3.removeprefix("s3://")
    client = client_of(s3_environment)
    for number in range(12):
        client.put_object(Bucket=bucket, Key=f"many/{number}", Body=b"")
    store = open_store(s3)
    assert len(store.list()) == 12
    store.delete_tree("many")
    assert keys_in(s3_environment, bucket) == []


@pytest.mark.parametrize(("endpoint", "size"), [("moto", 100), ("moto", BIG), ("rclone", BIG)], indirect=["endpoint"])
def test_a_writer_that_fails_leaves_nothing(store: Store, size: int, endpoint: str, bucket: str) -> None:
    def write_half() -> None:
        with store.writer("new") as file:
            file.write(bytes(size))
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_half()
    gc.collect()  # a stream that is only forgotten would complete its upload here
    assert store.list() == []
    assert keys_in(endpoint, bucket) == []
    store.write_bytes("new", b"old")
    with pytest.raises(RuntimeError, match="half way"):
        write_half()
    assert store.read_bytes("new") == b"old"


def test_an_interrupted_upload_leaves_nothing(store: Store) -> None:
    """Control-C while the bytes travel."""
    before = signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a job in the background (CI) starts with the signal ignored

    class Interrupted:
        def __init__(self) -> None:
            self.reads = 0

        def seek(self, offset: int) -> None:
            assert offset == 0

        def read(self, size: int = -1) -> bytes:
            self.reads += 1
            if (
                self.reads == 3
            ):  # boto3 reads on a thread of its own; the signal goes to the main one, as Control-C does
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                time.sleep(1)
            return bytes(8 << 20) if self.reads < 6 else b""

    try:
        with pytest.raises(KeyboardInterrupt):
            store.fs.handler.upload(Interrupted(), store.full("half"))
    finally:
        signal.signal(signal.SIGINT, before)
    assert store.list() == []


@both_servers
def test_large_objects_and_ranges(store: Store) -> None:
    pattern = bytes(range(251))
    data = (pattern * (BIG // len(pattern) + 1))[:BIG]
    store.write_bytes("big", data)
    assert store.size("big") == BIG
    with store.open_input("big") as file:
        assert file.size() == BIG
        for start, length in [(0, 7), (BIG - 9, 9), (12_345_678, 4096), (3, 0)]:
            file.seek(start)
            assert file.read(length) == data[start : start + length]
        assert file.read_at(11, 1_000_003) == data[1_000_003:1_000_014]
    assert store.read_bytes("big") == data


def test_parquet_rows(store: Store) -> None:
    table = pa.table({"n": list(range(100)), "bytes": [bytes([n]) * 1000 for n in range(100)]})
    write_parquet_file(store, "part.parquet", table, row_group_size=8)
    assert read_parquet_file(store, "part.parquet").equals(table)
    assert read_parquet_file(store, "part.parquet", columns=["n"]).column_names == ["n"]
    for start, stop in [(0, 1), (7, 9), (31, 64), (99, 100)]:
        assert read_parquet_rows(store, "part.parquet", start, stop).equals(table.slice(start, stop - start))


def test_upload_and_download(store: Store, tmp_path: Path) -> None:
    files = {"model.json": b"{}", "deep/er/weights": bytes(3000), "empty": b""}
    for name, content in files.items():
        (tmp_path / "from" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "from" / name).write_bytes(content)
    store.upload(tmp_path / "from", "model")
    store.write_bytes("model-b/other", b"")
    assert store.list("model") == sorted(f"model/{name}" for name in files)
    store.download(tmp_path / "to", "model")
    found = {
        path.relative_to(tmp_path / "to").as_posix(): path.read_bytes()
        for path in (tmp_path / "to").rglob("*")
        if path.is_file()
    }
    assert found == files
    store.child("model").download(tmp_path / "whole")
    assert (tmp_path / "whole" / "deep" / "er" / "weights").stat().st_size == 3000


def test_a_key_cannot_leave_the_folder_it_is_downloaded_to(s3: str, s3_environment: str, tmp_path: Path) -> None:
    bucket = s3.removeprefix("s3://")
    for key in ("photos/leaf/../evil", "photos/evil"):
        client_of(s3_environment).put_object(Bucket=bucket, Key=key, Body=b"1")
    with contextlib.suppress(UserError, FileNotFoundError):
        open_store(f"{s3}/photos").download(tmp_path / "a" / "to", "leaf")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_markers_of_other_programs_are_no_files(s3: str, s3_environment: str) -> None:
    bucket = s3.removeprefix("s3://")
    for key in ("photos/", "photos/a/", "photos/a/1.png"):
        client_of(s3_environment).put_object(Bucket=bucket, Key=key, Body=b"")
    assert open_store(s3).list() == ["photos/a/1.png"]
    assert open_store(s3).exists("photos/a")
    with pytest.raises(FileNotFoundError):
        open_store(s3).size("photos/a")


def test_pickled_stores_work_and_hold_no_secret(store: Store) -> None:
    store.write_bytes("a", b"1")
    pickled = pickle.dumps(store)
    assert SECRET.encode() not in pickled
    copy = pickle.loads(pickled)
    assert copy == store
    assert copy.read_bytes("a") == b"1"
    copy.delete("a")
    assert store.list() == []
    assert copy != open_store(f"{store.uri}/elsewhere")


@both_servers
def test_copies_within_the_server(store: Store) -> None:
    store.write_bytes("a", b"1")
    pafs.copy_files(store.full("a"), store.full("b"), source_filesystem=store.fs, destination_filesystem=store.fs)
    assert store.read_bytes("b") == b"1"

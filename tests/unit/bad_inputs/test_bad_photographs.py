"""Photographs, labels and names that cannot be ingested: one error that names the file and the remedy, or left out."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest

from tests.factories import encoded, put
from tests.unit.bad_inputs.outcomes import refused, skipped
from ufgvc.core.errors import UserError
from ufgvc.data.dataset import open_dataset
from ufgvc.data.ingest import ingest


def check_photograph(source: Path, name: str, data: bytes, reason: str) -> None:
    put(source / name, data)
    refused(source, name, reason, "--on-bad-image skip")
    dataset, rejected = skipped(source)
    assert list(rejected) == [name]
    assert reason in rejected[name]
    assert sum(dataset.counts.values()) == 8


def test_unreadable(source: Path) -> None:
    check_photograph(source, "train/a/bad.jpg", b"this is no photograph", "is not a photograph of a type that is read")


def test_another_kind_of_photograph(source: Path) -> None:
    check_photograph(
        source,
        "train/a/bad.cr2",
        b"II*\0\x10\0\0\0CR\x02\0",
        "is a raw photograph of a camera (CR2): export it as JPEG or PNG",
    )


def test_truncated(source: Path) -> None:
    photo = encoded(1)
    check_photograph(source, "test/b/cut.jpg", photo[: len(photo) // 2], "is truncated")


def test_zero_bytes(source: Path) -> None:
    check_photograph(source, "train/a/empty.png", b"", "is empty (zero bytes)")


def test_too_small(source: Path) -> None:
    check_photograph(source, "train/a/tiny.jpg", encoded(1, height=31, width=200), "too small: 200 x 31 pixels")


def test_decompression_bomb(source: Path) -> None:
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks
    )
    check_photograph(source, "train/a/bomb.png", bomb, "decompression bomb")


def test_label_without_a_class(source: Path) -> None:
    put(source / "classes.txt", "a\nc\n")
    refused(source, "train/b/train0.jpg", "its label 'b' has no class")
    dataset, rejected = skipped(source)
    assert len(rejected) == 4
    assert dataset.classes == ("a", "c")


def test_numeric_label_without_a_class(tmp_path: Path) -> None:
    for name in ("1_1_train", "1_2_test", "3_1_train"):
        put(tmp_path / "s" / "images" / f"{name}.jpg")
    put(tmp_path / "s" / "anno" / "train.txt", "1_1_train.jpg 1\n3_1_train.jpg 7\n")
    put(tmp_path / "s" / "anno" / "test.txt", "1_2_test.jpg 1\n")
    put(tmp_path / "s" / "classes.txt", "a\nb\n")
    refused(tmp_path / "s", "images/3_1_train.jpg: its label 7 has no class")
    assert list(skipped(tmp_path / "s")[1]) == ["images/3_1_train.jpg"]


def test_anno_names_a_missing_file(tmp_path: Path) -> None:
    for split in ("train", "test"):
        put(tmp_path / "s" / "images" / f"1_1_{split}.jpg")
        put(tmp_path / "s" / "images" / f"2_1_{split}.jpg")
        put(tmp_path / "s" / "anno" / f"{split}.txt", f"1_1_{split}.jpg 1\n2_1_{split}.jpg 2\n1_9_{split}.jpg 1\n")
    refused(tmp_path / "s", "images/1_9_train.jpg", "but it does not exist")
    assert set(skipped(tmp_path / "s")[1]) == {"images/1_9_train.jpg", "images/1_9_test.jpg"}


def test_names_never_leave_the_folder(tmp_path: Path) -> None:
    put(tmp_path / "secret.jpg")
    for name in ("1.jpg", "2.jpg"):
        put(tmp_path / "s" / name)
    good = "1.jpg,../../x,train\n2.jpg,../../y,test\n"
    put(tmp_path / "s" / "manifest.csv", f"path,cultivar,split\n{good}../secret.jpg,a,train\n/etc/passwd,a,train\n")
    refused(tmp_path / "s", "../secret.jpg: lies outside the manifest's folder", "/etc/passwd")
    before = set(tmp_path.rglob("*"))
    dataset, rejected = skipped(tmp_path / "s")
    assert set(rejected) == {"../secret.jpg", "/etc/passwd"}
    assert dataset.classes == ("../../x", "../../y")
    assert all(path.is_relative_to(tmp_path / "skipped") for path in set(tmp_path.rglob("*")) - before)


def test_a_name_that_is_no_name_for_a_folder(source: Path) -> None:
    refused(source, "'../x' cannot name a data set", name="../x")


def test_a_failed_ingest_leaves_what_was_there(source: Path) -> None:
    data = source.parent / "data"
    before = ingest(str(source), str(data))
    files = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    put(source / "train" / "a" / "bad.jpg", b"bad")
    with pytest.raises(UserError):
        ingest(str(source), str(data))
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == files
    assert open_dataset(str(data)) == before


def test_many_bad_inputs_are_one_message(source: Path) -> None:
    for k in range(9):
        put(source / "train" / "a" / f"bad{k}.jpg", b"bad")
    message = refused(source, "train/a/bad0.jpg", "and 4 more")
    assert message.count("is not a photograph of a type") == 5


def test_fixing_the_input_removes_the_list(source: Path) -> None:
    put(source / "train" / "a" / "bad.jpg", b"bad")
    skipped(source)
    (source / "train" / "a" / "bad.jpg").unlink()
    ingest(str(source), str(source.parent / "skipped"))
    assert not (source.parent / "skipped" / "rejected.csv").exists()

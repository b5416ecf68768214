"""One list of photographs for ingest and predict: what lies in a folder is used or listed with its reason, never
passed over.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.factories import encoded, put
from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store
from ufgvc.data.readers.scan import Photographs, find_photographs, scan
from ufgvc.evaluation.predict import list_photographs


def found_in(folder: Path) -> Photographs:
    return find_photographs(scan(open_store(folder)))


@pytest.mark.parametrize(
    "name", ["a.jpg", "a.JPG", "a.jfif", "a.jpe", "a.pjpeg", "a.mpo", "a.jps", "a", "a.jpg_large", "a.JPG ", "a.1"]
)
def test_a_jpeg_is_found_under_any_ending(tmp_path: Path, name: str) -> None:
    put(tmp_path / name, encoded(1))
    assert list(found_in(tmp_path).sizes) == [name]


@pytest.mark.parametrize("name", ["a.heic", "a.HEIF", "a.avif", "a.bmp", "a.gif", "a.png", "a.webp", "a.tif", "a.tiff"])
def test_the_endings_of_photographs(tmp_path: Path, name: str) -> None:
    put(tmp_path / name, b"whatever it holds: it is opened and judged later")
    assert list(found_in(tmp_path).sizes) == [name]


BALLAST = [
    *(
        ".DS_Store",
        "._a.jpg",
        "Thumbs.db",
        "thumbs.db",
        "desktop.ini",
        ".Trashes/501/old.jpg",
        "__MACOSX/._a.jpg",
        "Icon\r",
    ),
    *("@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg", "#recycle/old.jpg", "$RECYCLE.BIN/S-1-5/deleted.jpg", "lost+found/x.jpg"),
    *("x/@eaDir/y.jpg", "x/.ipynb_checkpoints/a-checkpoint.jpg", "System Volume Information/x.jpg"),
]


@pytest.mark.parametrize("name", BALLAST)
def test_system_files_are_no_content(tmp_path: Path, name: str) -> None:
    put(tmp_path / "a.jpg")
    put(tmp_path / name, encoded(2))
    found = found_in(tmp_path)
    assert list(found.sizes) == ["a.jpg"]
    assert found.rejected == found.left_out == []
    assert found.others == []


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.CR2", b"II*\0\x10\0\0\0CR\2\0", "raw photograph of a camera (CR2)"),
        ("a.dng", b"", "raw photograph of a camera (DNG)"),
        ("a.raf", b"FUJIFILMCCD-RAW", "raw photograph"),
        ("a.psd", b"8BPS", "Photoshop"),
        ("a.jp2", b"", "JPEG 2000"),
        ("a.jxl", b"\xff\x0a", "JPEG XL"),
        ("a", b"8BPS", "Photoshop"),  # by its first bytes
    ],
)
def test_a_photograph_of_another_kind_is_refused_with_its_remedy(
    tmp_path: Path, name: str, data: bytes, reason: str
) -> None:
    put(tmp_path / "b.jpg")
    put(tmp_path / name, data)
    found = found_in(tmp_path)
    assert [bad.path for bad in found.rejected] == [name]
    assert reason in found.rejected[0].reason
    assert "JPEG or PNG" in found.rejected[0].reason
    put(tmp_path / "a.jpg")
    both = found_in(tmp_path)
    assert both.rejected == []
    assert "the photograph of the same name is used" in both.left_out[0].reason


@pytest.mark.parametrize("name", ["a.mov", "a.mp4", "a.svg", "a.pdf", "a.jpg~", "a.jpg.part", "a.crdownload", "a.bak"])
def test_what_is_no_photograph_is_listed_and_no_error(tmp_path: Path, name: str) -> None:
    put(tmp_path / "b.jpg")
    put(tmp_path / name, encoded(1))
    found = found_in(tmp_path)
    assert list(found.sizes) == ["b.jpg"]
    assert [bad.path for bad in found.left_out] == [name]
    assert found.rejected == []


def test_every_other_file_is_listed(tmp_path: Path) -> None:
    for name in ("notes.txt", "data.csv", "a.AAE", "unknown.xyz", "no_ending"):
        put(tmp_path / name, "text")
    assert found_in(tmp_path).others == ["a.AAE", "data.csv", "no_ending", "notes.txt", "unknown.xyz"]


def test_links(tmp_path: Path) -> None:
    put(tmp_path / "x" / "a.jpg")
    put(tmp_path / "elsewhere" / "b.jpg")
    (tmp_path / "x" / "dangling.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "x" / "loop").symlink_to("..")
    (tmp_path / "x" / "itself.jpg").symlink_to("itself.jpg")
    (tmp_path / "x" / "link.jpg").symlink_to(tmp_path / "elsewhere" / "b.jpg")
    (tmp_path / "x" / "folder").symlink_to(tmp_path / "elsewhere")
    found = found_in(tmp_path / "x")
    assert list(found.sizes) == ["a.jpg", "folder/b.jpg", "link.jpg"]
    assert [(bad.path, bad.reason) for bad in found.rejected] == [
        (f"{name}.jpg", "is a broken link") for name in ("dangling", "itself")
    ]
    assert [(bad.path, bad.reason) for bad in found.left_out] == [("loop", "is a link to a folder above it")]


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xfc.jpg")).write_bytes(encoded(1))
    os.mkdir(os.fsencode(tmp_path) + b"/folder\xfc")
    found = found_in(tmp_path)
    assert list(found.sizes) == ["a.jpg"]
    assert [(bad.path, bad.reason) for bad in found.rejected] == [
        ("b\\xfc.jpg", "its name is not UTF-8 text: rename it")
    ]
    assert [bad.path for bad in found.left_out] == ["folder\\xfc"]


@pytest.mark.parametrize(
    "name",
    ["a b.jpg", "quote's \".jpg", "50%20.jpg", "#1?.jpg", "$x$.jpg", "ü.jpg", "u\u0308.jpg", "new\nline.jpg", "=1.jpg"],
)
def test_odd_names_are_names(tmp_path: Path, name: str) -> None:
    put(tmp_path / name)
    assert list(found_in(tmp_path).sizes) == [name]
    store, names, others = list_photographs(str(tmp_path))
    assert (names, others) == ([name], [])
    assert list_photographs(str(tmp_path / name))[1] == [name]
    assert store.read_bytes(names[0])


def test_why_a_place_gives_nothing(tmp_path: Path) -> None:
    put(tmp_path / "file", "x")
    (tmp_path / "empty").mkdir()
    for name, what in (
        ("missing", "there is no such file or folder"),
        ("file", "is a file"),
        ("empty", "is an empty folder"),
    ):
        with pytest.raises(UserError, match=what):
            scan(open_store(tmp_path / name))


def test_predict_lists_what_it_does_not_read(tmp_path: Path) -> None:
    put(tmp_path / "a.jfif", encoded(1))
    put(tmp_path / "raw.cr2", b"II*\0")
    put(tmp_path / "notes.txt", "x")
    put(tmp_path / "out" / "predictions.csv", "path,cultivar\n")
    _, names, others = list_photographs(str(tmp_path), without=open_store(tmp_path / "out"))
    assert names == ["a.jfif"]
    assert [bad.path for bad in others] == ["raw.cr2", "notes.txt"]


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("x.csv", "path\na.jpg\n", "is not a photograph"),
        ("x.jpg", "<!DOCTYPE html><html>quota exceeded</html>", "HTML page"),
        ("x.jpg", "version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        ("x.zip", b"PK\x03\x04", "zip archive"),
        ("x.jpg", "", "is empty"),
    ],
)
def test_one_file_that_is_no_photograph(tmp_path: Path, name: str, data: str | bytes, what: str) -> None:
    put(tmp_path / name, data)
    with pytest.raises(UserError, match=what):
        list_photographs(str(tmp_path / name))


def test_a_folder_without_photographs_says_what_it_holds(tmp_path: Path) -> None:
    put(tmp_path / "only.cr2", b"")
    with pytest.raises(UserError, match=r"holds no photograph that can be read; only.cr2 is a raw photograph"):
        list_photographs(str(tmp_path))

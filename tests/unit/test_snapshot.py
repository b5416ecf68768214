"""Whether a source has changed since it was ingested: a corrected digit counts, looking again does not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.factories import image_folder, put
from ufgvc.core.storage import Store, open_store
from ufgvc.data.readers.snapshot import boxes_state, source_state


def state_of(uri: str, without: Store | None = None) -> list[list[str | int]]:
    """The whole state at once."""
    return list(source_state(uri, without))


def keep_time(path: Path, text: str) -> None:
    """Another text of the same length and time of writing, as an editor or `cp -p` may leave it."""
    before = path.stat()
    assert len(text.encode()) == before.st_size
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "name", ["anno/train.txt", "labels/1.txt", "classes.txt", "x.csv", "a/x.xml", "x.json", "data.yaml"]
)
def test_a_corrected_digit_counts_whatever_the_clocks_say(tmp_path: Path, name: str) -> None:
    put(tmp_path / "images" / "1.jpg")
    put(tmp_path / name, "1 2 3")
    first = state_of(str(tmp_path))
    assert state_of(str(tmp_path)) == first
    keep_time(tmp_path / name, "1 2 4")
    assert state_of(str(tmp_path)) != first


def test_a_photograph_counts_by_its_size_and_time(tmp_path: Path) -> None:
    image_folder(tmp_path)
    first = state_of(str(tmp_path))
    photo = tmp_path / "train" / "a" / "train0.jpg"
    data = photo.read_bytes()
    photo.write_bytes(data[::-1])
    os.utime(photo, ns=(0, 1))
    second = state_of(str(tmp_path))
    assert second != first
    photo.unlink()
    assert state_of(str(tmp_path)) not in (first, second)


def test_a_table_stands_for_the_photographs_that_it_names(tmp_path: Path) -> None:
    put(image_folder(tmp_path) / "photos.csv", "path,cultivar\ntrain/a/train0.jpg,a\n")
    first = state_of(str(tmp_path / "photos.csv"))
    (tmp_path / "train" / "a" / "train0.jpg").unlink()
    assert state_of(str(tmp_path / "photos.csv")) != first


def test_boxes_in_one_file_and_the_names_above_a_folder(tmp_path: Path) -> None:
    put(tmp_path / "boxes" / "labels" / "1.txt", "0 .5 .5 .1 .1")
    put(tmp_path / "boxes" / "classes.txt", "vein\ncontour\n")
    first = boxes_state(str(tmp_path / "boxes" / "labels"))
    keep_time(tmp_path / "boxes" / "classes.txt", "contour\nvein\n")
    assert boxes_state(str(tmp_path / "boxes" / "labels")) != first
    put(tmp_path / "boxes.json", "{}")
    document = boxes_state(str(tmp_path / "boxes.json"))
    keep_time(tmp_path / "boxes.json", "[]")
    assert boxes_state(str(tmp_path / "boxes.json")) != document


def test_a_data_set_in_its_own_source_does_not_count(tmp_path: Path) -> None:
    image_folder(tmp_path)
    data = open_store(tmp_path / "data")
    first = state_of(str(tmp_path), without=data)
    data.write_text("dataset.json", "{}")
    assert state_of(str(tmp_path), without=data) == first

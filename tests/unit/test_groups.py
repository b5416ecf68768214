"""`ingest --groups`: a table that names the plant, or the photograph, that each leaf comes from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.factories import image_folder
from ufgvc.core.errors import UserError
from ufgvc.data.readers import list_source
from ufgvc.data.readers.groups import read_groups
from ufgvc.data.readers.listing import Listing


def read(tmp_path: Path, text: str, name: str = "groups.csv") -> Listing:
    """The photographs 0.jpg and 1.jpg of the cultivars a and b, with the groups of a table."""
    source = tmp_path / "source"
    image_folder(source)
    (source / name).write_text(text)
    listing = list_source(str(source))
    read_groups(str(source / name), listing)
    return listing


def groups(listing: Listing) -> dict[str, str | None]:
    return {photo.path: photo.group for photo in listing.photos}


@pytest.mark.parametrize("header", ["path,group", "file,photograph", "Image;Plant"])
def test_paths_and_groups(tmp_path: Path, header: str) -> None:
    sign = ";" if ";" in header else ","
    paths = sorted(groups(read(tmp_path / "first", header + "\n")))
    rows = "".join(f"{path}{sign}plant {place // 2}\n" for place, path in enumerate(paths[:3]))
    listing = read(tmp_path / "second", f"{header}\n{rows}")
    wanted = dict.fromkeys(paths) | dict(zip(paths[:3], ["plant 0", "plant 0", "plant 1"], strict=True))
    assert groups(listing) == wanted
    assert not listing.rejected
    assert "groups.csv" not in listing.unused


def test_rows_without_a_photograph_are_listed(tmp_path: Path) -> None:
    listing = read(tmp_path, "path,group\nlost.jpg,7\n")
    assert [(bad.path, "no such photograph" in bad.reason) for bad in listing.rejected] == [("lost.jpg", True)]


def test_one_message_for_each_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs one column called group or plant or photograph"):
        read(tmp_path / "columns", "path,leaf\n")
    with pytest.raises(UserError, match="is not a table"):
        read_groups(str(tmp_path), read(tmp_path / "folder", "path,group\n"))
    path = next(iter(groups(read(tmp_path / "two", "path,group\n"))))
    with pytest.raises(UserError, match="the groups 1 and 2"):
        read(tmp_path / "twice", f"path,group\n{path},1\n{path},2\n")


def test_a_file_that_a_table_lists_twice_has_its_group_in_both_rows(tmp_path: Path) -> None:
    """So that a plant in both splits is found, whichever row is kept."""
    source = tmp_path / "source"
    image_folder(source)
    listing = list_source(str(source))
    path = listing.photos[0].path
    photos = listing.photos
    doubled = photos.take(np.array([0, 0, *range(1, len(photos))]))
    listing = replace(listing, photos=doubled)
    (source / "groups.csv").write_text(f"path,group\n{path},P\n")
    read_groups(str(source / "groups.csv"), listing)
    assert [photo.group for photo in listing.photos][:3] == ["P", "P", None]

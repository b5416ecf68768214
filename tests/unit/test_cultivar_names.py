"""Names of cultivars in several spellings, and numbers as labels."""

from __future__ import annotations

import logging
import unicodedata
from pathlib import Path

import pytest

from tests.factories import put
from tests.unit.source_listings import classes, refused
from ufgvc.core.errors import UserError
from ufgvc.data.readers import list_source
from ufgvc.data.readers.listing import Listing, check_names

# Names.


def test_composed_and_decomposed_names_are_one_cultivar(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = "Büzgülü"
    for split, form in (("train", "NFD"), ("test", "NFC")):
        put(tmp_path / split / unicodedata.normalize(form, name) / "1.jpg")  # type: ignore[arg-type]
        put(tmp_path / split / "alpha" / "1.jpg")
    listing = list_source(str(tmp_path))
    assert listing.classes == (unicodedata.normalize("NFC", name), "alpha")
    assert {photo.split for photo in listing.photos if photo.label == 0} == {"train", "test"}
    assert "are read as one cultivar" in caplog.text


def test_a_decomposed_folder_and_a_composed_list(tmp_path: Path) -> None:
    name = unicodedata.normalize("NFC", "Büzgülü")
    for k in range(2):
        put(tmp_path / unicodedata.normalize("NFD", name) / f"{k}.jpg")
        put(tmp_path / "alpha" / f"{k}.jpg")
    put(tmp_path / "classes.txt", f"alpha\n{name}\n")
    assert set(classes(list_source(str(tmp_path))).values()) == {"alpha", name}
    rows = "".join(
        f"{cultivar}/{k}.jpg,{cultivar},{split}\n"
        for cultivar in ("alpha", name)
        for k, split in ((0, "train"), (1, "test"))
    )
    put(tmp_path / "manifest.csv", f"path,cultivar,split\n{rows}")
    assert len(list_source(str(tmp_path)).photos) == 4


@pytest.mark.parametrize("other", ["Pinot  Noir", "Pinot Noir ", " Pinot Noir", "Pinot\u00a0Noir"])
def test_blanks_make_no_other_cultivar(tmp_path: Path, other: str) -> None:
    for split, name in (("train", "Pinot Noir"), ("test", other)):
        put(tmp_path / split / name / "1.jpg")
        put(tmp_path / split / "Syrah" / "1.jpg")
    assert list_source(str(tmp_path)).classes == ("Pinot Noir", "Syrah")


def test_names_that_differ_in_case(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split, name in (("train", "Merlot"), ("test", "merlot")):
        put(tmp_path / split / name / "1.jpg")
        put(tmp_path / split / "Syrah" / "1.jpg")
    refused(tmp_path, "'Merlot' and 'merlot' differ only in case", "the same spelling in train and test")
    put(tmp_path / "test" / "Merlot" / "2.jpg")
    with caplog.at_level(logging.WARNING):
        check_names(list_source(str(tmp_path)), str(tmp_path))
    assert "they stay different classes" in caplog.text


# Numbers.


def table(root: Path, cells: dict[str, str], column: str = "label") -> Listing:
    """A manifest with one training and one test photograph a class. cells: folder -> what the table says."""
    lines = [f"path,{column},split"]
    for folder, cell in cells.items():
        for split in ("train", "test"):
            put(root / folder / f"{split}.jpg")
            lines.append(f"{folder}/{split}.jpg,{cell},{split}")
    put(root / "manifest.csv", "\n".join(lines) + "\n")
    return list_source(str(root))


@pytest.mark.parametrize("column", ["label", "cultivar"])
def test_leading_zeros_belong_to_the_name(tmp_path: Path, column: str) -> None:
    assert table(tmp_path, {"x": "001", "y": "002", "z": "010"}, column).classes == ("001", "002", "010")


@pytest.mark.parametrize("base", [1000, 2023000000])
def test_only_the_labels_that_occur_are_cultivars(tmp_path: Path, base: int) -> None:
    listing = table(tmp_path, {f"c{k}": str(base + k) for k in (1, 2, 10)})
    assert listing.classes == tuple(str(base + k) for k in (1, 2, 10))
    assert sorted({photo.label for photo in listing.photos}) == [0, 1, 2]


def test_whole_numbers_of_a_spreadsheet(tmp_path: Path) -> None:
    assert table(tmp_path, {"x": "1.0", "y": "2.0"}).classes == ("1", "2")


def test_one_number_written_two_ways(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="are the same number"):
        table(tmp_path, {"x": "1", "y": "001"})


def test_gaps_in_released_labels(tmp_path: Path) -> None:
    for cultivar in (3, 7):
        for split in ("train", "test"):
            put(tmp_path / "images" / f"leaf{cultivar}{split}.jpg")
    for split in ("train", "test"):
        put(tmp_path / "anno" / f"{split}.txt", f"leaf3{split}.jpg 3\nleaf7{split}.jpg 7\n")
    assert list_source(str(tmp_path)).classes == ("3", "7")

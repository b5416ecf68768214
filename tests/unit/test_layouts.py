"""Sources as people have them: one folder too many, names in two spellings, numbers as labels, any encoding."""

from __future__ import annotations

import logging
import unicodedata
from pathlib import Path

import pytest

from tests.factories import image_folder, put
from ufgvc.core.config import load_yaml
from ufgvc.core.errors import UserError
from ufgvc.data.readers import list_source
from ufgvc.data.readers.listing import Listing, check_names


def refused(source: Path, *texts: str, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        check_names(list_source(str(source), **options), str(source))  # type: ignore[arg-type]
    for text in (*texts, "->"):
        assert text in str(caught.value)
    return str(caught.value)


def classes(listing: Listing) -> dict[str, str]:
    return {photo.path: photo.cultivar for photo in listing.photos}


# Folders.


def test_one_folder_too_many(tmp_path: Path) -> None:
    image_folder(tmp_path / "leaves")
    refused(tmp_path, "one folder too many: leaves/ contains test/, train/", f"give --source {tmp_path}/leaves")


def test_one_folder_too_many_below_the_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            put(tmp_path / split / "leaves" / name / "1.jpg")
    refused(tmp_path, "one folder too many: leaves/ contains a/, b/")


@pytest.mark.parametrize("other", ["docs", "unlabeled", "results"])
def test_a_folder_beside_train_and_test(tmp_path: Path, other: str) -> None:
    put(image_folder(tmp_path) / other / "figure.png")
    message = refused(tmp_path, "has test/, train/", f"{other}/ (1 photographs)")
    assert "--split" not in message, "the old advice made cultivars of train and test"


def test_longer_names_of_splits(tmp_path: Path) -> None:
    image_folder(tmp_path)
    (tmp_path / "train").rename(tmp_path / "training_set")
    (tmp_path / "test").rename(tmp_path / "Test Set")
    assert {photo.split for photo in list_source(str(tmp_path)).photos} == {"train", "test"}


@pytest.mark.parametrize("layout", ["{split}/images/{k}.jpg", "images/{split}/{k}.jpg"])
def test_the_layout_of_a_detection_export(tmp_path: Path, layout: str) -> None:
    for split in ("train", "test"):
        for k in range(2):
            name = layout.format(split=split, k=k)
            put(tmp_path / name)
            put(tmp_path / name.replace("images", "labels").replace(".jpg", ".txt"), "0 .5 .5 .1 .1\n")
    refused(tmp_path, "is laid out for detection", "path, cultivar, split")


def test_a_single_cultivar(tmp_path: Path) -> None:
    image_folder(tmp_path, ("only",))
    refused(tmp_path, "one cultivar only, 'only'")


def test_a_list_of_regions_is_no_list_of_cultivars(tmp_path: Path) -> None:
    put(image_folder(tmp_path) / "classes.txt", "contour\nvein\n")
    assert list_source(str(tmp_path)).classes == ("a", "b")


def test_system_folders_are_no_cultivars(tmp_path: Path) -> None:
    image_folder(tmp_path)
    for name in (
        "@eaDir/a/x.jpg",
        "#recycle/old.jpg",
        "$RECYCLE.BIN/S-1/x.jpg",
        "lost+found/x.jpg",
        "train/a/@eaDir/x.jpg",
    ):
        put(tmp_path / name)
    listing = list_source(str(tmp_path))
    assert listing.classes == ("a", "b")
    assert len(listing.photos) == 8


@pytest.mark.parametrize("name", ["measurements.csv", "metadata.csv", "empty.csv", "predictions.csv"])
def test_a_table_that_only_lies_there(tmp_path: Path, name: str) -> None:
    text = {
        "measurements.csv": "plant,height_cm\n1,20\n",
        "metadata.csv": "file_name,text\ntrain/a/train0.jpg,a leaf\n",
        "empty.csv": "",
        "predictions.csv": "path,cultivar,probability,top1_cultivar,top1_probability\ntrain/a/train0.jpg,a,0.9,a,0.9\n",
    }[name]
    put(image_folder(tmp_path) / name, text)
    assert len(list_source(str(tmp_path)).photos) == 8
    if text:
        refused(tmp_path / name, "and has", "--reader folder")


def test_photographs_that_a_table_does_not_name_are_listed(tmp_path: Path) -> None:
    put(
        image_folder(tmp_path) / "photos.csv",
        "path,cultivar,split\ntrain/a/train0.jpg,a,train\ntest/b/test0.jpg,b,test\n",
    )
    listing = list_source(str(tmp_path))
    assert len(listing.photos) == 2
    assert {bad.reason for bad in listing.left_out} == {"the source does not list it"}
    assert len(listing.left_out) == 6


@pytest.mark.parametrize("name", ["photos.zip", "leaf.jpg", "labels.txt"])
def test_one_file_that_is_no_table(tmp_path: Path, name: str) -> None:
    put(tmp_path / name, "x")
    refused(tmp_path / name, "is one file", "unpack an archive")


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


def test_paths_of_a_table_from_another_machine(tmp_path: Path) -> None:
    for k in (1, 2):
        put(tmp_path / "a" / f"{k}.jpg")
    put(tmp_path / "manifest.csv", f"path,cultivar,split\nC:\\me\\a\\1.jpg,x,train\n{tmp_path}/a/2.jpg,y,test\n")
    assert sorted(classes(list_source(str(tmp_path)))) == ["a/1.jpg", "a/2.jpg"]


# Text.

ROWS = "path,cultivar,split\n1.jpg,Büz,train\n2.jpg,AK,train\n3.jpg,Büz,test\n4.jpg,AK,test\n"


@pytest.mark.parametrize(
    "data",
    [
        ROWS.encode(),
        ROWS.encode("utf-8-sig"),
        ROWS.encode("utf-16"),
        ROWS.replace("\n", "\r\n").encode(),
        ROWS.replace(",", ";").encode(),
        ROWS.replace(",", "\t").encode(),
        ROWS.replace("path,cultivar,split", "Path, Cultivar ,SPLIT").encode(),
        ('"' + ROWS.replace(",", '","').replace("\n", '"\n"').rstrip('"')).encode(),
        ROWS.replace("\n", ",0\n").replace("split,0", "split,").encode(),
    ],
)
def test_tables_of_every_spreadsheet(tmp_path: Path, data: bytes) -> None:
    for k in range(1, 5):
        put(tmp_path / f"{k}.jpg")
    put(tmp_path / "manifest.csv", data)
    listing = list_source(str(tmp_path))
    assert set(listing.classes) == {"AK", "Büz"}
    assert len(listing.photos) == 4


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("path,cultivar,cultivar\n1.jpg,a,b\n", "has the column cultivar twice"),
        ("filename,label\n1.jpg,a\n", "needs the columns path and label (or cultivar), and has filename, label"),
        ("path,cultivar\n1.jpg,a\n1.jpg\n", "cannot be read as a table"),
        ("", "cannot be read as a table"),
        ("# made by me\npath,cultivar\n1.jpg,a\n", "cannot be read as a table|needs the columns"),
        ("path,cultivar\n", "contains no photographs"),
    ],
)
def test_damaged_tables(tmp_path: Path, text: str, reason: str) -> None:
    put(tmp_path / "1.jpg")
    put(tmp_path / "manifest.csv", text)
    message = refused(tmp_path)
    assert any(part in message for part in reason.split("|"))


@pytest.mark.parametrize("file", ["classes.txt", "anno/train.txt"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_encodings(tmp_path: Path, file: str, encoding: str) -> None:
    for split in ("train", "test"):
        for name in ("Büz", "AK"):
            put(tmp_path / "images" / f"{name}_1_{split}.jpg")
        put(tmp_path / "anno" / f"{split}.txt", f"Büz_1_{split}.jpg 0\nAK_1_{split}.jpg 1\n")
    put(tmp_path / "classes.txt", "Büzgülü\nAK\n")
    put(tmp_path / file, (tmp_path / file).read_text().encode(encoding))
    if encoding == "latin-1":
        refused(tmp_path, f"{file}: is not UTF-8 text (line 1)", "save it as UTF-8")
    else:
        assert list_source(str(tmp_path)).classes == ("Büzgülü", "AK")


def test_encodings_of_settings(tmp_path: Path) -> None:
    for encoding in ("utf-8-sig", "utf-16"):
        assert load_yaml(put(tmp_path / "s.yaml", "name: Büz\n".encode(encoding))) == {"name": "Büz"}
    with pytest.raises(UserError, match="is not UTF-8 text"):
        load_yaml(put(tmp_path / "s.yaml", "name: Büz\n".encode("latin-1")))


@pytest.mark.parametrize(
    "line",
    [
        "{name} {label}",
        "{name}\t{label}",
        "{name},{label}",
        "{name}, {label}",
        "{label} {name}",
        "{label},{name}",
        "images\\{name} {label}",
        "/home/me/grape/images/{name} {label}",
        '"{name}" {label}',
        "{name} {label}.0",
        "./{name} {label}\r",
    ],
)
@pytest.mark.parametrize("blank", ["", "leaf "])
def test_lines_of_anno(tmp_path: Path, line: str, blank: str) -> None:
    for split in ("train", "test"):
        lines = []
        for label in (0, 1):
            name = f"{blank}{label + 1}_1_{split}.jpg"
            put(tmp_path / "Images" / name)
            lines.append(line.format(name=name, label=label))
        put(tmp_path / "Anno" / f"ct_{split}.txt", "file label\n" + "\n".join(lines) + "\n")
    put(tmp_path / "classes.txt", "0 AK\n1 ALA\n")
    listing = list_source(str(tmp_path))
    assert listing.rejected == []
    assert listing.classes == ("AK", "ALA")
    assert {photo.image_id: photo.label for photo in listing.photos} == {
        f"{blank}{label + 1}_1_{split}": label for label in (0, 1) for split in ("train", "test")
    }


def test_a_line_that_names_nothing_says_where(tmp_path: Path) -> None:
    put(tmp_path / "images" / "1_1_train.jpg")
    put(tmp_path / "anno" / "train.txt", "1_1_train.jpg 1\n1_2_train.jpg 1\n")
    listing = list_source(str(tmp_path))
    assert listing.rejected[0].reason == "anno/train.txt lists it in line 2, but it does not exist"


def test_masks_and_labels_of_a_released_folder_are_not_reported(tmp_path: Path) -> None:
    for name in ("1_1_train", "2_1_train", "1_2_test"):
        put(tmp_path / "images" / f"{name}.jpg")
        put(tmp_path / "masks" / "vein" / f"{name}.png")
        put(tmp_path / "labels" / f"{name}.txt", "0 .5 .5 .1 .1\n")
    put(tmp_path / "notes.txt", "x")
    listing = list_source(str(tmp_path))
    assert listing.left_out == []
    assert listing.unused == ["notes.txt"]

"""Tables and label files of a source: every spreadsheet's form, any encoding, damage, paths of another machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.factories import put
from tests.unit.source_listings import classes, refused
from ufgvc.core.config import load_yaml
from ufgvc.core.errors import UserError
from ufgvc.data.readers import list_source

ROWS = "path,cultivar,split\n1.jpg,Büz,train\n2.jpg,AK,train\n3.jpg,Büz,test\n4.jpg,AK,test\n"


def test_paths_of_a_table_from_another_machine(tmp_path: Path) -> None:
    for k in (1, 2):
        put(tmp_path / "a" / f"{k}.jpg")
    put(tmp_path / "manifest.csv", f"path,cultivar,split\nC:\\me\\a\\1.jpg,x,train\n{tmp_path}/a/2.jpg,y,test\n")
    assert sorted(classes(list_source(str(tmp_path)))) == ["a/1.jpg", "a/2.jpg"]


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

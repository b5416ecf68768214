"""Boxes in YOLO's text files: variants of their lines, damaged lines, other text files, encodings."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.factories import put
from tests.unit.box_annotations import CONTOUR_FIRST, PHOTOS, matched, regions
from ufgvc.core.errors import UserError
from ufgvc.data.readers.box_files import parse_yolo
from ufgvc.data.readers.boxes import read_boxes


@pytest.mark.parametrize(
    ("line", "corners"),
    [
        ("0 0.5 0.5 0.1 0.8", (0.45, 0.1, 0.55, 0.9)),
        ("0.0 0.5 0.5 0.1 0.8", (0.45, 0.1, 0.55, 0.9)),
        ("0\t0.5\t0.5\t0.1\t0.8\r", (0.45, 0.1, 0.55, 0.9)),
        ("0 0.5 0.5 0.1 0.8 0.91", (0.45, 0.1, 0.55, 0.9)),
        ("0 0.1 0.2 0.4 0.2 0.3 0.8", (0.1, 0.2, 0.4, 0.8)),  # a polygon
        ("0 0.47 0.1 0.53 0.1 0.53 0.9 0.47 0.9", (0.47, 0.1, 0.53, 0.9)),  # an oriented box
        ("0 0.1 0.2 0.4 0.2 0.4 0.8 0.1 0.8 0.1 0.2", (0.1, 0.2, 0.4, 0.8)),  # closed
    ],
)
def test_lines_of_yolo(line: str, corners: tuple[float, ...]) -> None:
    box = parse_yolo(f"\n{line}\n\n", {0: "vein"})[0]
    assert box.label == "vein"
    assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx(corners)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0,0.5,0.5,0.06,0.8", "line 2 has 0 numbers after the class"),
        ("0 0,5 0,5 0,06 0,8", "line 2 is not `class x y width height`: '0 0,5"),
        ("0 0.5 0.5", "line 2 has 2 numbers after the class; a box has 4"),
        ("0 48 36 6 58", "line 2 has 58: YOLO boxes are fractions of width and height, these seem to be pixels"),
        ("0 .5 .5 .06 .8 .5 .1 2 .5 .9 2", "neither a box nor a polygon within"),
        ("0 0.5 0.5 -0.1 0.2", "line 2 has a negative width or height"),
        ("0 nan 0.5 0.1 0.2", "line 2 has coordinates that are not numbers"),
    ],
)
def test_lines_that_are_not_yolo_are_named(line: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason.split("`")[0]) as caught:
        parse_yolo(f"0 0.5 0.5 0.1 0.1\n{line}\n", {})
    assert reason in str(caught.value)


def test_text_files_that_belong_to_no_photograph_do_not_stop_anything(tmp_path: Path) -> None:
    put(tmp_path / "alpha_train0.txt", CONTOUR_FIRST)
    put(tmp_path / "README.dataset.txt", "# leaves > 2024-05-01 9:12am\nhttps://universe.example/leaves\n")
    put(tmp_path / "train.txt", "./images/a.jpg\n")
    put(tmp_path / "other.txt", "0 0.5 0.5 0.1 0.1\n")
    _, photos = matched(tmp_path)
    assert list(photos.by_path) == [PHOTOS[0]]
    assert photos.rejected == []
    assert {bad.path for bad in photos.left_out} == {"README.dataset.txt", "train.txt", "other.txt"}
    put(tmp_path / "alpha_train1.txt", "what is this?\n")
    assert [bad.path for bad in matched(tmp_path)[1].rejected] == ["alpha_train1.txt"], (
        "what names a photograph must be readable"
    )


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_encodings_of_text_boxes(tmp_path: Path, encoding: str) -> None:
    put(tmp_path / "alpha_train0.txt", CONTOUR_FIRST.encode(encoding))
    put(tmp_path / "classes.txt", "contour\nvein\nBlattränder\n".encode(encoding))
    assert regions(tmp_path) == ["vein", "contour", "contour"]
    put(tmp_path / "classes.txt", "contour\nvein\nBlattränder\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"classes.txt: is not UTF-8 text \(line 3\)"):
        read_boxes(str(tmp_path))


def test_two_text_files_of_one_photograph_contradict_each_other(tmp_path: Path) -> None:
    put(tmp_path / "a" / "alpha_train0.txt", "0 .5 .5 .06 .8\n")
    put(tmp_path / "b" / "alpha_train0.txt", "0 .5 .5 .1 .8\n")
    _, photos = matched(tmp_path)
    assert photos.by_path == {}
    assert "a/alpha_train0.txt" in photos.rejected[0].reason
    assert "b/alpha_train0.txt" in photos.rejected[0].reason

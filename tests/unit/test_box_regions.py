"""From annotated boxes to regions: class names wherever tools keep them, and photographs that EXIF turns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.factories import put
from tests.unit.box_annotations import CONTOUR_FIRST, PHOTOS, STEMS, regions
from ufgvc.core.errors import UserError
from ufgvc.data.readers.box_classes import choose_rules, to_regions
from ufgvc.data.readers.box_files import Annotation, RawBox
from ufgvc.data.readers.boxes import read_boxes

# Class names.


def names_of(kind: str) -> dict[str, str]:
    """Where tools write what the numbers mean: {file: text}, with labels of every photograph below labels/ or at the
    top.
    """
    lines, in_yaml = "contour\nvein\n", "names:\n  0: contour\n  1: vein\n"
    categories = json.dumps({"categories": [{"id": 0, "name": "contour"}, {"id": 1, "name": "vein"}]})
    return {
        "classes.txt": {"classes.txt": lines},
        "Classes.txt": {"Classes.txt": lines},
        "obj.names": {
            "obj.names": lines,
            "obj.data": "classes = 2\nnames = data/obj.names\n",
            "train.txt": "data/obj_train_data/x.jpg\n",
        },
        "data.yaml, a list": {"data.yaml": "nc: 2\nnames: [contour, vein]\n"},
        "data.yaml, a mapping": {"data.yaml": in_yaml},
        "dataset.yml": {"dataset.yml": in_yaml},
        "labels.txt": {"labels.txt": lines},
        "_darknet.labels": {"labels/_darknet.labels": lines},
        "nested": {"labels/classes.txt": lines},
        "notes.json": {"notes.json": categories, "classes.txt": lines},
        "predefined_classes.txt": {"predefined_classes.txt": lines},
        "next to the labels' folder": {"meta/classes.txt": lines},
        "Roboflow": {
            "data.yaml": "names: ['contour', 'vein']\n",
            "README.roboflow.txt": "\nleaves - v1\n====\n\nThis dataset\n",
        },
        "with a byte order mark": {"classes.txt": "\ufeff" + lines},
    }[kind]


PLACES = [
    *(
        "classes.txt",
        "Classes.txt",
        "obj.names",
        "data.yaml, a list",
        "data.yaml, a mapping",
        "dataset.yml",
        "labels.txt",
        "_darknet.labels",
    ),
    *(
        "nested",
        "notes.json",
        "predefined_classes.txt",
        "next to the labels' folder",
        "Roboflow",
        "with a byte order mark",
    ),
]


@pytest.mark.parametrize("place", PLACES)
def test_names_win_over_the_rules_for_numbers(tmp_path: Path, place: str) -> None:
    for stem in STEMS:
        put(tmp_path / "boxes" / "labels" / f"{stem}.txt", CONTOUR_FIRST)
    assert regions(tmp_path / "boxes") == ["contour", "vein", "vein"], "without names 0 is read as vein"
    for name, text in names_of(place).items():
        put(tmp_path / "boxes" / name, text)
    assert regions(tmp_path / "boxes") == ["vein", "contour", "contour"]
    if not any(name.startswith("meta/") for name in names_of(place)):
        assert regions(tmp_path / "boxes" / "labels") == ["vein", "contour", "contour"], "and one folder above --boxes"


def test_the_nearest_names_file_counts(tmp_path: Path) -> None:
    put(tmp_path / "a" / "alpha_train0.txt", CONTOUR_FIRST)
    put(tmp_path / "b" / "beta_train0.txt", "0 0.5 0.5 0.06 0.8\n1 0.3 0.5 0.3 0.7\n")
    put(tmp_path / "a" / "classes.txt", "contour\nvein\n")
    put(tmp_path / "b" / "classes.txt", "vein\ncontour\n")
    assert regions(tmp_path)[0] == "vein"
    assert regions(tmp_path, PHOTOS[2])[0] == "vein"
    put(tmp_path / "c" / "beta_train1.txt", "0 0.5 0.5 0.06 0.8\n")
    with pytest.raises(UserError, match="name the classes differently"):
        read_boxes(str(tmp_path))


def test_a_list_of_cultivars_names_no_boxes(tmp_path: Path) -> None:
    put(tmp_path / "classes.txt", "alpha\nbeta\n")
    put(tmp_path / "labels" / "alpha_train0.txt", "0 0.5 0.5 0.06 0.8\n1 0.3 0.5 0.3 0.7\n")
    assert set(read_boxes(str(tmp_path), ("alpha", "beta")).labels()) == {"0", "1"}
    assert set(read_boxes(str(tmp_path / "labels")).labels()) == {"0", "1"}, (
        "above --boxes, a list that names no region is something else"
    )


@pytest.mark.parametrize(
    ("labels", "shown"), [({"a", "b"}, "a"), ({"vein", "2"}, "2"), ({"vein", "petiole"}, "petiole")]
)
def test_classes_that_are_no_regions_are_refused(labels: set[str], shown: str) -> None:
    with pytest.raises(UserError, match=shown) as caught:
        choose_rules(labels, "auto", "data.yaml")
    assert "data.yaml" in str(caught.value)


# Photographs that EXIF turns.


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_on_stored_pixels_are_turned_like_the_photograph(orientation: int) -> None:
    import numpy as np

    from ufgvc.data.images import _UPRIGHT

    stored = np.zeros((40, 60), np.uint8)
    stored[5:20, 10:16] = 1
    upright = _UPRIGHT[orientation](stored)
    height, width = upright.shape
    rows, columns = np.nonzero(upright)
    expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    pixels = Annotation("f", (RawBox("vein", 10, 5, 16, 20),), (60, 40))
    shares = Annotation("f", (RawBox("vein", 10 / 60, 5 / 40, 16 / 60, 20 / 40),), relative=True)
    for annotation in (pixels, shares):
        box = to_regions(annotation, width, height, "named", orientation, "stored")[0]
        assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx(expected)


def test_boxes_drawn_on_the_upright_photograph_stay(tmp_path: Path) -> None:
    drawn = Annotation("f", (RawBox("vein", 10, 5, 16, 50),), (40, 60))
    for setting in ("auto", "upright"):
        box = to_regions(drawn, 40, 60, "named", 6, setting)[0]  # type: ignore[arg-type]
        assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx((10, 5, 16, 50))


def test_the_size_of_the_stored_pixels_is_only_half_an_answer() -> None:
    """Old LabelImg draws on the stored pixels; Label Studio's COCO has upright boxes next to the stored size."""
    labelimg = Annotation("f", (RawBox("vein", 50, 5, 58, 30),), (60, 40))
    box = to_regions(labelimg, 40, 60, "named", 6)[0]
    assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx((10, 50, 35, 58))
    label_studio = Annotation("f", (RawBox("vein", 5, 10, 30, 58),), (60, 40))
    box = to_regions(label_studio, 40, 60, "named", 6)[0]
    assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx((5, 10, 30, 58))
    both = Annotation("f", (RawBox("vein", 5, 10, 30, 38),), (60, 40))
    with pytest.raises(ValueError, match="fit both: choose with `--box-orientation"):
        to_regions(both, 40, 60, "named", 6)


def test_a_square_photograph_is_turned_too() -> None:
    square = Annotation("f", (RawBox("vein", 0, 0, 10, 20),), (60, 60))
    assert to_regions(square, 60, 60, "named", 3)[0].x0 == 0
    turned = to_regions(square, 60, 60, "named", 3, "stored")[0]
    assert (turned.x0, turned.y0, turned.x1, turned.y1) == pytest.approx((50, 40, 60, 60))

"""Boxes as annotation tools really write them: formats and their variants, class names wherever they stand, several
files together.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.factories import put
from ufgvc.core.errors import UserError
from ufgvc.data.readers.box_classes import choose_rules, to_regions
from ufgvc.data.readers.box_files import Annotation, RawBox, parse_coco, parse_voc, parse_yolo
from ufgvc.data.readers.boxes import BoxFiles, Matched, match_boxes, read_boxes

PHOTOS = [
    f"{split}/{cultivar}/{cultivar}_{split}{k}.jpg"
    for split in ("train", "test")
    for cultivar in ("alpha", "beta")
    for k in (0, 1)
]
STEMS = [Path(photo).stem for photo in PHOTOS]
CONTOUR_FIRST = (
    "1 0.5 0.5 0.06 0.8\n0 0.3 0.5 0.3 0.7\n0 0.7 0.5 0.3 0.7\n"  # contour 0, vein 1: the order of the alphabet
)
BOXES = {"vein": [(45, 7, 6, 58)], "contour": [(14, 11, 29, 50), (53, 11, 29, 50)]}


def matched(folder: Path | str, cultivars: tuple[str, ...] = ()) -> tuple[BoxFiles, Matched]:
    found = read_boxes(str(folder), cultivars)
    return found, match_boxes(found, PHOTOS)


def regions(folder: Path | str, photo: str = PHOTOS[0]) -> list[str]:
    found, photos = matched(folder)
    rules = choose_rules(set(found.labels()), "auto")
    return [box.region for box in to_regions(photos.by_path[photo], 96, 72, rules)]


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


# YOLO text.


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


# COCO.


def coco(photos: list[str], only: str | None = None, size: bool = True) -> dict[str, Any]:
    images, annotations = [], []
    for number, name in enumerate(photos, 1):
        images.append({"id": number, "file_name": name} | ({"width": 96, "height": 72} if size else {}))
        for category, (label, boxes) in enumerate(BOXES.items(), 1):
            annotations += [
                {"image_id": number, "category_id": category, "bbox": list(box)}
                for box in boxes
                if only in (None, label)
            ]
    categories = [{"id": 1, "name": "vein"}, {"id": 2, "name": "contour"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def changed(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    document = coco(PHOTOS)
    change(document)
    return document


@pytest.mark.parametrize(
    "document",
    [
        coco(PHOTOS),
        coco(PHOTOS, size=False),
        changed(lambda d: d["images"][0].update(width=None, height=72.0)),
        changed(
            lambda d: [
                box.update(image_id=float(box["image_id"]), category_id=float(box["category_id"]))
                for box in d["annotations"]
            ]
        ),
        changed(lambda d: [image.update(id=str(image["id"])) for image in d["images"]]),
        changed(lambda d: d["annotations"][0].update(bbox=["45", "7", "6", "58"])),
        changed(lambda d: d["annotations"][0].update(iscrowd=1, segmentation={"counts": [10, 20], "size": [72, 96]})),
        changed(
            lambda d: (
                d["annotations"][0].pop("bbox"),
                d["annotations"][0].update(segmentation=[[45, 7, 51, 7, 51, 65]]),
            )
        ),
        changed(lambda d: d["categories"].insert(0, {"id": 0, "name": "leaves"})),
        changed(lambda d: d["images"].append(dict(d["images"][0], id=99))),
        changed(
            lambda d: [
                image.update(file_name="C:\\leaves\\" + image["file_name"].replace("/", "\\")) for image in d["images"]
            ]
        ),
        changed(
            lambda d: [
                image.update(file_name="images/0a1b2c3d-" + Path(image["file_name"]).name) for image in d["images"]
            ]
        ),
    ],
)
def test_variants_of_coco(tmp_path: Path, document: dict[str, Any]) -> None:
    put(tmp_path / "boxes.json", "\ufeff" + json.dumps(document))
    assert regions(tmp_path) == ["vein", "contour", "contour"]
    assert len(matched(tmp_path / "boxes.json")[1].by_path) == len(PHOTOS)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d["annotations"][3].pop("bbox"), "annotations.3 has neither a bbox nor a polygon"),
        (lambda d: d["annotations"][3].update(bbox=[]), "annotations.3 has neither a bbox nor a polygon"),
        (lambda d: d["annotations"][3].update(bbox=[1, 2, 3]), "annotations.3.bbox: is not x, y, width, height"),
        (
            lambda d: d["annotations"][3].update(category_id=7),
            "annotations.3.category_id: 7 is not among the category ids",
        ),
        (lambda d: d["annotations"][3].update(image_id=77), "annotations.3.image_id: 77 is not among the image ids"),
        (lambda d: d["annotations"][3].pop("image_id"), "annotations.3.image_id: Field required"),
        (lambda d: d.pop("categories"), "categories: Field required"),
    ],
)
def test_damaged_coco_names_the_key(tmp_path: Path, change: Callable[[dict[str, Any]], Any], reason: str) -> None:
    put(tmp_path / "boxes.json", json.dumps(changed(change)))
    with pytest.raises(UserError) as caught:
        read_boxes(str(tmp_path))
    assert reason in str(caught.value)
    assert "boxes.json" in str(caught.value)


def test_two_files_for_the_same_photographs_are_put_together(tmp_path: Path) -> None:
    for label in BOXES:
        put(tmp_path / f"{label}.json", json.dumps(coco(PHOTOS, only=label)))
    assert sorted(regions(tmp_path)) == ["contour", "contour", "vein"]
    put(tmp_path / "again.json", json.dumps(coco(PHOTOS, only="vein")))
    assert sorted(regions(tmp_path)) == ["contour", "contour", "vein"], "equal boxes count once"
    other = coco(PHOTOS, only="vein")
    other["annotations"][0]["bbox"] = [1, 1, 5, 5]
    put(tmp_path / "other.json", json.dumps(other))
    _, photos = matched(tmp_path)
    assert [(bad.path, "of the class 'vein'" in bad.reason) for bad in photos.rejected] == [(PHOTOS[0], True)]
    assert len(photos.by_path) == len(PHOTOS) - 1


def test_two_text_files_of_one_photograph_contradict_each_other(tmp_path: Path) -> None:
    put(tmp_path / "a" / "alpha_train0.txt", "0 .5 .5 .06 .8\n")
    put(tmp_path / "b" / "alpha_train0.txt", "0 .5 .5 .1 .8\n")
    _, photos = matched(tmp_path)
    assert photos.by_path == {}
    assert "a/alpha_train0.txt" in photos.rejected[0].reason
    assert "b/alpha_train0.txt" in photos.rejected[0].reason


def test_coco_keeps_the_ending_of_a_photograph(tmp_path: Path) -> None:
    put(tmp_path / "all.json", json.dumps(coco(["a/x.jpg", "a/x.png"])))
    photos = match_boxes(read_boxes(str(tmp_path)), ["a/x.jpg", "a/x.png"])
    assert sorted(photos.by_path) == ["a/x.jpg", "a/x.png"]


# Pascal VOC.


def voc(objects: str = "", size: str = "<width>96</width><height>72</height>", head: str = "") -> str:
    return f"{head}<annotation><filename>Blätt.jpg</filename><size>{size}</size>{objects}</annotation>"


def thing(label: str, corners: tuple[float, ...] = (45, 7, 51, 65), more: str = "") -> str:
    inside = "".join(
        f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    )
    return f"<object><name>{label}</name>{more}<bndbox>{inside}</bndbox></object>"


PART = "<part><name>tip</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"


@pytest.mark.parametrize(
    "data",
    [
        voc(thing("vein")).encode(),
        voc(thing(" Vein ")).encode(),
        voc(thing("vein", (51, 65, 45, 7))).encode(),
        voc(thing("vein", more=PART)).encode(),
        voc(thing("vein"), "<width>0</width><height>0</height>").encode(),
        voc(thing("vein"), "").encode(),
        voc(thing("vein"), "<width>96.0</width><height>72.0</height>").encode(),
        ("\ufeff" + voc(thing("vein"), head='<?xml version="1.0" encoding="utf-8"?>')).encode(),
        voc(thing("vein"), head='<?xml version="1.0" encoding="iso-8859-1"?>').encode("latin-1"),
        voc(thing("vein"), head='<?xml version="1.0" encoding="utf-16"?>').encode("utf-16"),
    ],
)
def test_variants_of_pascal_voc(data: bytes) -> None:
    annotation = parse_voc(data, "x.xml")
    boxes = to_regions(annotation, 96, 72, choose_rules({box.label for box in annotation.boxes}, "auto"))
    assert [(box.region, box.x0, box.y0, box.x1, box.y1) for box in boxes] == [("vein", 45, 7, 51, 65)]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("", "is empty"),
        ("<!DOCTYPE html><html><body>", "is not XML"),
        (voc("<object><name>contour</name></object>"), "object 1 (contour) has no bndbox"),
        (voc(thing("vein", ("a", 1, 2, 3))), "object 1, xmin is not a number: 'a'"),  # type: ignore[arg-type]
        ('<annotations><image name="x"/></annotations>', "CVAT's own XML"),
        ("<kml/>", "is XML, but not Pascal VOC (its root is <kml>)"),
    ],
)
def test_xml_that_is_not_pascal_voc(data: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_voc(data.encode(), "x.xml")
    assert reason in str(caught.value)


# Other tools, other places.


@pytest.mark.parametrize(
    ("document", "name"),
    [
        ({"shapes": [], "imagePath": "x.jpg"}, "labelme"),
        ({"_via_settings": {}, "_via_img_metadata": {}}, "VIA"),
        ({"a.jpg12": {"filename": "a.jpg", "regions": []}}, "VIA"),
        ([{"id": 1, "data": {"image": "x"}, "annotations": []}], "Label Studio's own JSON"),
        ([{"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5]}], "COCO results"),
        ([{"image": "x.jpg", "annotations": []}], "CreateML"),
        ({"size": {}, "objects": []}, "Supervisely"),
    ],
)
def test_files_of_other_tools_are_called_by_their_names(tmp_path: Path, document: Any, name: str) -> None:
    put(tmp_path / "x.json", json.dumps(document))
    for place in (tmp_path, tmp_path / "x.json"):
        with pytest.raises(UserError, match=name) as caught:
            read_boxes(str(place))
        assert "export" in str(caught.value)


@pytest.mark.parametrize(
    ("files", "place", "what"),
    [
        ({"a.jpg": None}, "", "contains no YOLO .txt, COCO .json or Pascal VOC .xml"),
        ({"one.txt": "0 .5 .5 .1 .1"}, "one.txt", "is one file, but not COCO .json"),
        (
            {"a.txt": "0 .5 .5 .1 .1", "b.xml": voc()},
            "",
            "contains boxes of several formats (YOLO .txt, Pascal VOC .xml)",
        ),
        ({"a.json": "{"}, "", "is not JSON"),
        ({"a.json": "{}"}, "a.json", "is JSON, but not COCO"),
        ({"a.txt": "hello world"}, "", "contains no boxes that can be read; a.txt"),
        ({"a.txt": ""}, "missing.json", "there is no such file"),
        ({"a.txt": ""}, "missing", "there is no such file or folder"),
    ],
)
def test_places_without_boxes(tmp_path: Path, files: dict[str, str | None], place: str, what: str) -> None:
    for name, text in files.items():
        put(tmp_path / name, text)
    with pytest.raises(UserError) as caught:
        read_boxes(str(tmp_path / place))
    assert what in str(caught.value)
    assert "->" in str(caught.value)


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


def test_corners_of_a_plain_coco_file() -> None:
    entries = parse_coco(coco(PHOTOS[:1]), "x.json")
    assert [name for name, _ in entries] == PHOTOS[:1]
    assert [(box.label, box.x0, box.y0, box.x1, box.y1) for box in entries[0][1].boxes] == [
        ("vein", 45, 7, 51, 65),
        ("contour", 14, 11, 43, 61),
        ("contour", 53, 11, 82, 61),
    ]

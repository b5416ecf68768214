"""Boxes in COCO's JSON and Pascal VOC's XML: variants that tools write, damaged files, several files together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.factories import put
from tests.unit.box_annotations import BOXES, PHOTOS, coco, matched, regions, voc
from ufgvc.core.errors import UserError
from ufgvc.data.readers.box_classes import choose_rules, to_regions
from ufgvc.data.readers.box_files import parse_coco, parse_voc
from ufgvc.data.readers.boxes import match_boxes, read_boxes

# COCO.


def changed(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    document = coco(PHOTOS)
    change(document)
    return document


def test_corners_of_a_plain_coco_file() -> None:
    entries = parse_coco(coco(PHOTOS[:1]), "x.json")
    assert [name for name, _ in entries] == PHOTOS[:1]
    assert [(box.label, box.x0, box.y0, box.x1, box.y1) for box in entries[0][1].boxes] == [
        ("vein", 45, 7, 51, 65),
        ("contour", 14, 11, 43, 61),
        ("contour", 53, 11, 82, 61),
    ]


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


def test_coco_keeps_the_ending_of_a_photograph(tmp_path: Path) -> None:
    put(tmp_path / "all.json", json.dumps(coco(["a/x.jpg", "a/x.png"])))
    photos = match_boxes(read_boxes(str(tmp_path)), ["a/x.jpg", "a/x.png"])
    assert sorted(photos.by_path) == ["a/x.jpg", "a/x.png"]


# Pascal VOC.


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

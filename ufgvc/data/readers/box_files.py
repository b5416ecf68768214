"""Parses the exports of annotation tools: YOLO text, Pascal VOC XML, COCO JSON. Errors are ValueErrors with the line or
key.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from pydantic import BaseModel, ValidationError

_TOLERANCE = 0.01  # of a side: polygons at the edge may end this far outside


@dataclass(frozen=True, slots=True)
class RawBox:
    """A box as in its file.  label: class name or number.  Corners in pixels, or as fractions if relative."""

    label: str
    x0: float
    y0: float
    x1: float
    y1: float
    score: float = 1.0


@dataclass(frozen=True, slots=True)
class Annotation:
    """The boxes of one photograph.  file: the file that they come from.

    size: (width, height) according to the file, None if it has none.  relative: corners are fractions of width and
    height.
    """

    file: str
    boxes: tuple[RawBox, ...]
    size: tuple[int, int] | None = None
    relative: bool = False


def parse_yolo(text: str, names: dict[int, str]) -> tuple[RawBox, ...]:
    """Parses lines `class x y width height [score]`, centre and size in [0, 1]; of polygons and oriented boxes the
    bounding box.

    names: of the class numbers, if there is a file of names.  ValueError with the line.
    """
    boxes = []
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        if not fields:
            continue
        try:
            values = [float(field) for field in fields[1:]]
        except ValueError:
            raise ValueError(f"line {number} is not `class x y width height`: {line.strip()[:60]!r}") from None
        label = _class_name(fields[0], names)
        boxes.append(_yolo_box(label, values, f"line {number}"))
    return tuple(boxes)


def _yolo_box(label: str, values: list[float], where: str) -> RawBox:
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"{where} has coordinates that are not numbers")
    if len(values) >= 6 and len(values) % 2 == 0:
        xs, ys = values[0::2], values[1::2]
        if not all(-_TOLERANCE <= value <= 1 + _TOLERANCE for value in values):
            raise ValueError(
                f"{where} has {len(values)} numbers that are neither a box nor a polygon within [0, 1] (a pose?)"
            )
        return RawBox(label, *(_clip(value) for value in (min(xs), min(ys), max(xs), max(ys))))
    if len(values) not in (4, 5):
        raise ValueError(f"{where} has {len(values)} numbers after the class; a box has 4 (x y width height)")
    x, y, width, height = values[:4]
    if max(values[:4]) > 2:
        raise ValueError(
            f"{where} has {max(values[:4]):g}: YOLO boxes are fractions of width and height, these seem to be pixels"
        )
    if min(width, height) < 0:
        raise ValueError(f"{where} has a negative width or height")
    return RawBox(
        label, x - width / 2, y - height / 2, x + width / 2, y + height / 2, values[4] if len(values) == 5 else 1.0
    )


def _clip(value: float) -> float:
    return min(max(value, 0.0), 1.0)


def _class_name(label: str, names: dict[int, str]) -> str:
    try:
        number = int(float(label))
    except (ValueError, OverflowError):
        return label
    return names.get(number, str(number))


def parse_voc(data: bytes, file: str) -> Annotation:
    """Parses the XML file of one photograph, in the encoding that it declares. ValueError if it is not Pascal VOC."""
    root = _xml(data)
    if root.tag == "annotations" and root.find("image") is not None:
        raise ValueError("is in CVAT's own XML format: export as `COCO 1.0`, `YOLO 1.1` or `PASCAL VOC 1.1`")
    if root.tag != "annotation":
        raise ValueError(f"is XML, but not Pascal VOC (its root is <{root.tag}>)")
    boxes = []
    for number, item in enumerate(root.findall("object"), 1):
        corners = item.find("bndbox")
        label = (item.findtext("name") or "").strip()
        if corners is None or not label:
            raise ValueError(
                f"object {number} ({label or 'without a name'}) has no {'name' if corners is not None else 'bndbox'}"
            )
        x0, y0, x1, y1 = (
            _number(corners.findtext(key), f"object {number}, {key}") for key in ("xmin", "ymin", "xmax", "ymax")
        )
        boxes.append(RawBox(label, min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)))
    size = [_size(root.findtext(f"size/{key}")) for key in ("width", "height")]
    return Annotation(file, tuple(boxes), (size[0], size[1]) if all(size) else None)


def _xml(data: bytes) -> ElementTree.Element:
    try:
        return ElementTree.fromstring(data.strip())
    except ElementTree.ParseError as error:
        raise ValueError(f"is not XML ({error})" if data.strip() else "is empty") from None


def _number(text: str | None, where: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        raise ValueError(f"{where} is not a number: {text!r}") from None
    if not math.isfinite(value):
        raise ValueError(f"{where} is not a number: {text!r}")
    return value


def _size(text: str | float | None) -> int:
    """A side in pixels; 0 if it is missing."""
    try:
        return max(0, round(float(text or 0)))
    except (ValueError, OverflowError):
        return 0


class _Image(BaseModel):
    id: int | float | str
    file_name: str
    width: float | None = None
    height: float | None = None


class _Category(BaseModel):
    id: int | float | str
    name: str


class _Box(BaseModel):
    image_id: int | float | str
    category_id: int | float | str
    bbox: list[float] | None = None
    segmentation: Any = None
    score: float = 1.0


class _Coco(BaseModel):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Box]


def parse_coco(document: Any, file: str) -> list[tuple[str, Annotation]]:
    """(file_name, boxes) of every image of a COCO document; an image without boxes counts as annotated. ValueError with
    the key.
    """
    try:
        coco = _Coco.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"][:3])
        raise ValueError(f"{key}: {first['msg']}") from None
    names = {_key(category.id): category.name.strip() for category in coco.categories}
    images = {_key(image.id): image for image in coco.images}
    boxes: dict[str, list[RawBox]] = defaultdict(list)
    for number, box in enumerate(coco.annotations):
        where = f"annotations.{number}"
        for what, given, known in (("image_id", box.image_id, images), ("category_id", box.category_id, names)):
            if _key(given) not in known:
                raise ValueError(f"{where}.{what}: {given} is not among the {what.partition('_')[0]} ids")
        boxes[_key(box.image_id)].append(_coco_box(box, names[_key(box.category_id)], where))
    found = []
    for image_id, image in images.items():
        size = _size(image.width), _size(image.height)
        found.append((image.file_name, Annotation(file, tuple(boxes[image_id]), size if all(size) else None)))
    return found


def _coco_box(box: _Box, label: str, where: str) -> RawBox:
    if box.bbox:
        if len(box.bbox) != 4 or not all(math.isfinite(value) for value in box.bbox):
            raise ValueError(f"{where}.bbox: is not x, y, width, height")
        x, y, width, height = box.bbox
        return RawBox(label, x, y, x + width, y + height, box.score)
    polygons = box.segmentation if isinstance(box.segmentation, list) else []
    points = [value for polygon in polygons if isinstance(polygon, list) for value in polygon]
    if len(points) < 6 or len(points) % 2 or not all(isinstance(value, int | float) for value in points):
        raise ValueError(f"{where} has neither a bbox nor a polygon")
    xs, ys = points[0::2], points[1::2]
    return RawBox(label, min(xs), min(ys), max(xs), max(ys), box.score)


def _key(value: float | str) -> str:
    """An id as text: 3, 3.0 and "3" are the same."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def json_format(document: Any) -> str:
    """The format of a JSON document: coco, names (categories without boxes), the format of another tool, or "" if
    unknown.
    """
    if isinstance(document, list):
        first = document[0] if document and isinstance(document[0], dict) else {}
        if {"data", "annotations"} <= first.keys() or {"data", "predictions"} <= first.keys():
            return "Label Studio's own JSON"
        if {"image_id", "category_id"} <= first.keys():
            return "a list of COCO results (detections, without the images and categories)"
        return "CreateML JSON" if {"image", "annotations"} <= first.keys() else ""
    if not isinstance(document, dict):
        return ""
    if "annotations" in document and ("images" in document or "categories" in document):
        return "coco"
    if "categories" in document and "images" not in document:
        return "names"
    if "shapes" in document:
        return "labelme JSON"
    if any(str(key).startswith("_via") for key in document) or _is_via(document.values()):
        return "VIA JSON"
    return "Supervisely JSON" if "objects" in document and "size" in document else ""


def _is_via(values: Iterable[Any]) -> bool:
    return any(isinstance(value, dict) and {"filename", "regions"} <= value.keys() for value in values)


def load_json(text: str) -> Any:
    """The value of a JSON text. ValueError if it is not JSON."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON ({error})") from None

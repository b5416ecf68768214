"""Boxes as annotation tools export them (YOLO text, COCO JSON, Pascal VOC XML), and what their classes mean.

The formats are read by globox. Boxes are relative to the upright photograph, as annotation tools show it.
"""

from __future__ import annotations

import math
import posixpath
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ufgvc.core.errors import UserError
from ufgvc.core.storage import Store, open_store
from ufgvc.core.types import REGIONS, Box
from ufgvc.data.readers.listing import Rejected, scan, stem_of

BoxRules = Literal["auto", "named", "two_classes", "one_class"]
_TOLERANCE = 1.0  # pixels: tools round, and a box drawn to the edge may end that far beyond it
_CLASS_FILES = ("classes.txt", "obj.names")


@dataclass(frozen=True, slots=True)
class RawBox:
    """A box as its file has it. label: class name or number. Corners in pixels, or in [0, 1] of the photograph if relative."""

    label: str
    x0: float
    y0: float
    x1: float
    y1: float
    score: float = 1.0


@dataclass(frozen=True, slots=True)
class Annotation:
    """The boxes of one photograph. file: where they stand. size: (width, height) that the file claims, None if relative."""

    file: str
    boxes: tuple[RawBox, ...]
    size: tuple[int, int] | None = None


@dataclass
class Annotations:
    """Annotations by the name of their photograph without its ending, with or without folders."""

    uri: str
    by_name: dict[str, Annotation] = field(default_factory=dict)
    rejected: list[Rejected] = field(default_factory=list)

    def labels(self) -> set[str]:
        return {box.label for annotation in self.by_name.values() for box in annotation.boxes}


def read_boxes(uri: str) -> Annotations:
    """Reads a folder of .txt or .xml files, a folder with one COCO .json, or that file. UserError if there is nothing of the kind."""
    if uri.lower().endswith(".json"):
        store, names = open_store(posixpath.dirname(uri) or "."), [posixpath.basename(uri)]
        if not store.exists(names[0]):
            raise UserError("there is no such file", where=uri, fix="check --boxes")
    else:
        store = open_store(uri)
        names = list(scan(store))
    kinds = {ending: [name for name in names if name.lower().endswith(ending)] for ending in (".txt", ".xml", ".json")}
    kinds[".txt"] = [name for name in kinds[".txt"] if posixpath.basename(name) not in _CLASS_FILES]
    used = [ending for ending, found in kinds.items() if found]
    if len(used) != 1:
        several = f"holds boxes of several formats ({', '.join(used)})"
        what = several if used else "holds no YOLO .txt, COCO .json or Pascal VOC .xml files"
        raise UserError(what, where=uri, fix="point --boxes at a folder with one format, or at the .json file")
    read = {".txt": _read_yolo, ".xml": _read_voc, ".json": _read_coco}[used[0]]
    annotations = Annotations(uri)
    with tempfile.TemporaryDirectory(prefix="ufgvc-boxes-") as folder:  # globox reads local files only
        with ThreadPoolExecutor(8) as pool:
            local = list(pool.map(lambda numbered: _fetch(store, numbered[1], Path(folder), numbered[0]), enumerate(kinds[used[0]])))
        read(store, list(zip(kinds[used[0]], local, strict=True)), annotations)
    return annotations


def _fetch(store: Store, name: str, folder: Path, number: int) -> Path:
    """A local copy under a name of our own: names from a data set never become paths."""
    path = folder / f"{number:08d}{posixpath.splitext(name)[1].lower()}"
    path.write_bytes(store.read_bytes(name))
    return path


def _read_yolo(store: Store, files: list[tuple[str, Path]], into: Annotations) -> None:
    from globox import Annotation as Parsed

    found = next((name for name in _CLASS_FILES if store.exists(name)), None)
    classes = [line.strip() for line in store.read_text(found).splitlines() if line.strip()] if found else []
    for name, path in files:
        text = path.read_bytes().decode("utf-8", "replace")
        path.write_text("".join(f"{line}\n" for line in text.lstrip("\ufeff").splitlines() if line.strip()), encoding="utf-8")
        parsed = _tried(lambda path=path: Parsed.from_yolo_v5(path, image_size=(1, 1)), name, into)
        if parsed is None:
            continue
        boxes = tuple(_raw(box, _class_name(box.label, classes)) for box in parsed.boxes)
        if _all_finite(boxes, name, into):
            into.by_name[posixpath.splitext(name)[0]] = Annotation(name, boxes)


def _class_name(label: str, classes: list[str]) -> str:
    try:
        number = int(float(label))
    except ValueError:
        return label
    return classes[number] if 0 <= number < len(classes) else str(number)


def _read_voc(store: Store, files: list[tuple[str, Path]], into: Annotations) -> None:
    from globox import Annotation as Parsed

    for name, path in files:
        parsed = _tried(lambda path=path: Parsed.from_xml(path), name, into)
        if parsed is None:
            continue
        boxes = tuple(_raw(box, box.label) for box in parsed.boxes)
        if _all_finite(boxes, name, into):
            into.by_name[posixpath.splitext(name)[0]] = Annotation(name, boxes, parsed.image_size)


def _read_coco(store: Store, files: list[tuple[str, Path]], into: Annotations) -> None:
    from globox import AnnotationSet

    for name, path in files:
        parsed = _tried(lambda path=path: AnnotationSet.from_coco(path), name, into)
        if parsed is None:
            raise UserError(into.rejected[-1].reason, where=f"{store.uri}/{name}", fix="export the boxes again as COCO JSON")
        for annotation in parsed:
            boxes = tuple(_raw(box, box.label) for box in annotation.boxes)
            photo = posixpath.normpath(annotation.image_id.replace("\\", "/"))
            if _all_finite(boxes, f"{name}: {annotation.image_id}", into):
                into.by_name[posixpath.splitext(photo)[0]] = Annotation(name, boxes, annotation.image_size)


def _tried(parse: Any, name: str, into: Annotations) -> Any:
    """What the library makes of a file; what it raises on malformed ones (it has no one error of its own) becomes a rejection."""
    from globox.errors import ParsingError

    try:
        return parse()
    except (ParsingError, AssertionError, KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        into.rejected.append(Rejected(name, f"its boxes cannot be read ({text.replace(str(Path(tempfile.gettempdir())), '')})"))
        return None


def _raw(box: Any, label: str) -> RawBox:
    return RawBox(label.strip(), box.xmin, box.ymin, box.xmax, box.ymax, 1.0 if box.confidence is None else box.confidence)


def _all_finite(boxes: Iterable[RawBox], name: str, into: Annotations) -> bool:
    if all(math.isfinite(value) for box in boxes for value in (box.x0, box.y0, box.x1, box.y1)):
        return True
    into.rejected.append(Rejected(name, "a box has coordinates that are not numbers"))
    return False


def match_photos(annotations: Annotations, paths: Iterable[str]) -> tuple[dict[str, Annotation], list[Rejected]]:
    """Each photograph's annotation, and the annotations that belong to no photograph.

    A photograph is named by its path without the ending, or by its last parts as long as only one photograph has them.
    """
    paths = list(paths)
    tails: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        parts = posixpath.splitext(path)[0].split("/")
        for start in range(len(parts)):
            tails["/".join(parts[start:])].append(path)
    matched: dict[str, Annotation] = {}
    lost: list[Rejected] = []
    for name, annotation in annotations.by_name.items():
        found = tails.get(name) or tails.get(stem_of(f"{name}.x"), [])
        if len(found) == 1 and found[0] not in matched:
            matched[found[0]] = annotation
        else:
            reason = "its boxes belong to no photograph of the data set"
            if found:
                reason = f"{len(found)} photographs have this name" if len(found) > 1 else f"{found[0]} has boxes from another file already"
            lost.append(Rejected(annotation.file if annotation.size is None else f"{annotation.file}: {name}", reason))
    return matched, lost


def decide_rules(labels: set[str], setting: BoxRules) -> BoxRules:
    """Which rules the labels of a whole set call for: region names as they are; class 1 occurs: two classes; else one class."""
    numbers = {label for label in labels if label.isdecimal()}
    if setting != "auto":
        rules: BoxRules = setting
    elif labels and not numbers:
        rules = "named"
    else:
        rules = "two_classes" if "1" in numbers else "one_class"
    strange = sorted(label for label in labels - numbers if label.lower() not in REGIONS)
    if strange or (rules == "named" and numbers):
        shown = strange[0] if strange else min(numbers)
        raise UserError(f"the boxes' class {shown!r} is not a region", where="box classes", fix=f"name the classes {' and '.join(REGIONS)}")
    return rules


def to_regions(annotation: Annotation, width: int, height: int, rules: BoxRules) -> list[Box]:
    """The boxes of one upright photograph in pixels, by region. ValueError(reason) if one lies outside it or has no area.

    named: the class is the region. two_classes (soy): 0 is vein, 1 contour, any other number is read as 0; of three boxes or more
    without a vein the thinnest is it. one_class (cotton): the thinnest is the vein, the others are contour.
    """
    if annotation.size not in (None, (width, height)):
        drawn = " x ".join(str(side) for side in annotation.size or ())
        raise ValueError(f"its boxes were drawn on {drawn} pixels, the photograph has {width} x {height}")
    sx, sy = (width, height) if annotation.size is None else (1, 1)
    boxes = [_checked(Box("", b.x0 * sx, b.y0 * sy, b.x1 * sx, b.y1 * sy, b.score), width, height) for b in annotation.boxes]
    labels = [box.label.lower() for box in annotation.boxes]
    if rules == "one_class":
        named = _thinnest(boxes)
    else:
        named = [label if label in REGIONS else REGIONS[1] if label == "1" else REGIONS[0] for label in labels]
        if rules == "two_classes" and REGIONS[0] not in named and len(boxes) >= 3:
            named = _thinnest(boxes)
    return [Box(region, b.x0, b.y0, b.x1, b.y1, b.score) for region, b in zip(named, boxes, strict=True)]


def _thinnest(boxes: list[Box]) -> list[str]:
    """The box with the largest ratio of its sides is the vein. On the released labels this picks the middle box of cotton in 469 of 480
    photographs, and class 0 of soy in 1101 of 1150; the smallest width picks 462 and 167, the smallest side 462 and 1011.
    """
    if not boxes:
        return []
    vein = max(range(len(boxes)), key=lambda k: max(boxes[k].width, boxes[k].height) / min(boxes[k].width, boxes[k].height))
    return [REGIONS[0] if k == vein else REGIONS[1] for k in range(len(boxes))]


def _checked(box: Box, width: int, height: int) -> Box:
    corners = f"({box.x0:.0f}, {box.y0:.0f}) to ({box.x1:.0f}, {box.y1:.0f})"
    if not (-_TOLERANCE <= box.x0 <= box.x1 <= width + _TOLERANCE and -_TOLERANCE <= box.y0 <= box.y1 <= height + _TOLERANCE):
        raise ValueError(f"a box {corners} lies outside the photograph of {width} x {height} pixels")
    inside = Box(box.region, max(box.x0, 0.0), max(box.y0, 0.0), min(box.x1, float(width)), min(box.y1, float(height)), box.score)
    if inside.width <= 0 or inside.height <= 0:
        raise ValueError(f"a box {corners} has no area")
    return inside


def count_labels(annotations: Annotations) -> Counter[str]:
    """How often each class occurs."""
    return Counter(box.label for annotation in annotations.by_name.values() for box in annotation.boxes)

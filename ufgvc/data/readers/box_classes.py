"""Maps the classes of boxes to regions: by their names, or by rules for numbers without names."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from ufgvc.core.errors import UserError
from ufgvc.core.region_names import MAX_REGIONS, PAPER_REGIONS, is_region_name, join_names
from ufgvc.core.storage import Store
from ufgvc.core.types import Box
from ufgvc.data.readers.box_files import Annotation, json_format, load_json
from ufgvc.data.readers.listing import clean_name

BoxRules = Literal["auto", "named", "two_classes", "one_class"]
BoxOrientation = Literal["auto", "upright", "stored"]
NUMBER_RULES = ("two_classes", "one_class")  # for classes that are numbers without names
_TOLERANCE = 1.0  # pixels: tools round, so a box at the edge may end this far outside
_NAME_LISTS = frozenset(("classes.txt", "labels.txt", "predefined_classes.txt", "obj.names", "_darknet.labels"))
_YAML = (".yaml", ".yml")
# Maps a corner (x, y) from stored pixels of width w and height h to the upright photograph, by EXIF orientation.
_TO_UPRIGHT = {
    1: lambda x, y, w, h: (x, y),
    2: lambda x, y, w, h: (w - x, y),
    3: lambda x, y, w, h: (w - x, h - y),
    4: lambda x, y, w, h: (x, h - y),
    5: lambda x, y, w, h: (y, x),
    6: lambda x, y, w, h: (h - y, x),
    7: lambda x, y, w, h: (h - y, w - x),
    8: lambda x, y, w, h: (y, w - x),
}


@dataclass(frozen=True)
class ClassNames:
    """The class names in a file.  names: by class number."""

    file: str
    names: dict[int, str]


@dataclass
class NameFiles:
    """The files of class names in a folder with boxes, by their folder.  above: the one in the parent folder."""

    uri: str
    by_folder: dict[str, ClassNames] = field(default_factory=dict)
    above: ClassNames | None = None

    def names_for(self, file: str) -> ClassNames | None:
        """The class names for a box file: of the nearest folder above it, else the only ones, else those of `above`.

        UserError if several differ and none is in a folder above the file.
        """
        folder = posixpath.dirname(file)
        while True:
            if folder in self.by_folder:
                return self.by_folder[folder]
            if not folder:
                break
            folder = posixpath.dirname(folder)
        different = {tuple(sorted(found.names.items())): found for found in self.by_folder.values()}
        if len(different) > 1:
            files = " and ".join(found.file for found in list(different.values())[:2])
            raise UserError(
                f"{files} name the classes differently", where=self.uri, fix="keep the one that belongs to the boxes"
            )
        return next(iter(different.values())) if different else self.above


def is_names_file(name: str) -> bool:
    """Whether annotation tools write class names into files of this name."""
    base = posixpath.basename(name).lower()
    return base in _NAME_LISTS or base.endswith((".names", *_YAML)) or base == "notes.json"


def read_name_files(
    store: Store, names: Iterable[str], cultivars: Iterable[str], regions: Sequence[str], parent: Store | None
) -> NameFiles:
    """Reads the class names of boxes below `store`, and in its parent folder if one of them is that of a region.

    cultivars: a file with these names lists the cultivars and is ignored.  UserError if two files of one folder differ.
    """
    known = {clean_name(name) for name in cultivars}
    files = NameFiles(store.uri)
    for name in sorted(names):
        found = _read_names(store, name)
        if found is None or {clean_name(text) for text in found.names.values()} <= known:
            continue
        folder = posixpath.dirname(name)
        other = files.by_folder.setdefault(folder, found)
        if other.names != found.names:
            what = f"{other.file} and {found.file} name the classes differently"
            raise UserError(what, where=store.uri, fix="keep the one that belongs to the boxes")
    for name in parent.list(recursive=False) if parent else ():
        found = _read_names(parent, name) if parent and is_names_file(name) else None
        if found and any(text.lower() in regions for text in found.names.values()):
            files.above = ClassNames(f"../{found.file}", found.names)
    return files


def _read_names(store: Store, name: str) -> ClassNames | None:
    text = store.read_text(name)
    if name.lower().endswith(_YAML):
        return _names_of(name, _yaml_names(text, f"{store.uri}/{name}"))
    if name.lower().endswith(".json"):
        document = load_json(text)
        categories = document.get("categories", []) if json_format(document) == "names" else []
        return _names_of(name, {item.get("id"): item.get("name") for item in categories if isinstance(item, dict)})
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _names_of(name, dict(enumerate(lines)))


def _names_of(file: str, names: Mapping[Any, Any]) -> ClassNames | None:
    numbered = {int(number): str(name).strip() for number, name in names.items() if str(number).isdecimal() and name}
    return ClassNames(file, numbered) if numbered else None


def _yaml_names(text: str, where: str) -> dict[Any, Any]:
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"not valid YAML: {error}", where=where, fix="correct the file") from None
    names = document.get("names") if isinstance(document, dict) else None
    if isinstance(names, list):
        return dict(enumerate(names))
    return names if isinstance(names, dict) else {}


def check_rules(setting: BoxRules, regions: Sequence[str]) -> None:
    """UserError for rules that tell vein and contour apart where these are not the regions."""
    if setting in NUMBER_RULES and set(regions) != set(PAPER_REGIONS):
        what = f"this rule tells {join_names(PAPER_REGIONS)} apart, and the regions are {join_names(regions)}"
        raise UserError(what, where=f"--box-rules {setting}", fix="leave it out, and give the classes names")


def choose_rules(
    labels: set[str], setting: BoxRules, names_file: str | None = None, regions: Sequence[str] = PAPER_REGIONS
) -> BoxRules:
    """The rules for the labels of a data set: named if they are regions, two_classes if class 1 occurs, else one_class.

    UserError for a label that is neither a region nor a number, for names and numbers together, and for numbers without
    names unless the regions are the paper's.
    """
    numbers = {label for label in labels if label.isdecimal()}
    others = sorted(labels - numbers)
    unknown = [label for label in others if label.lower() not in regions]
    named_in = f" (named in {names_file})" if names_file else ""
    fix = f"name the classes {join_names(regions)}, remove the boxes of other classes"
    if unknown:
        own = sorted({label.lower() for label in others})
        if len(own) <= MAX_REGIONS and all(map(is_region_name, own)):
            fix += f", or make them the regions: --regions {' '.join(own)}"
        raise UserError(f"the boxes' class {unknown[0]!r}{named_in} is not a region", where="box classes", fix=fix)
    if setting in NUMBER_RULES and not others:
        return setting
    if numbers and (others or setting == "named" or set(regions) != set(PAPER_REGIONS)):
        what = f"some boxes have the class {min(numbers)}, which has no name{named_in}"
        raise UserError(what, where="box classes", fix=fix)
    if others or not labels:
        return setting if setting != "auto" else "named"
    return "two_classes" if "1" in numbers else "one_class"


def to_regions(
    annotation: Annotation,
    width: int,
    height: int,
    rules: BoxRules,
    orientation: int = 1,
    drawn_on: BoxOrientation = "auto",
) -> list[Box]:
    """The boxes of a photograph in pixels of the upright image, with regions. ValueError(reason) for a box outside or
    without area.

    named: the class is the region. two_classes (soy): 0 is vein, 1 is contour, any other number is read as 0; if there
    are three or more boxes and no vein, the thinnest is the vein. one_class (cotton): the thinnest is the vein, the
    others are contour.
    orientation: EXIF 1-8.  drawn_on: whether the boxes were drawn on the upright photograph or on its stored pixels;
    auto: upright, unless the file has the size of the stored pixels and the boxes fit only into that.
    """
    rotated = _drawn_on_stored_pixels(annotation, width, height, orientation, drawn_on)
    drawn = (height, width) if rotated and orientation >= 5 else (width, height)
    sx, sy = drawn if annotation.relative else (1, 1)
    turn = _TO_UPRIGHT[orientation if rotated else 1]
    boxes = []
    for raw in annotation.boxes:
        (xa, ya), (xb, yb) = turn(raw.x0 * sx, raw.y0 * sy, *drawn), turn(raw.x1 * sx, raw.y1 * sy, *drawn)
        boxes.append(_clip_box(Box("", min(xa, xb), min(ya, yb), max(xa, xb), max(ya, yb), raw.score), width, height))
    named = [box.label.lower() for box in annotation.boxes]
    if rules == "two_classes":
        named = [label if label in PAPER_REGIONS else "contour" if label == "1" else "vein" for label in named]
    if rules == "one_class" or (rules == "two_classes" and "vein" not in named and len(boxes) >= 3):
        named = _thinnest(boxes)
    return [Box(region, b.x0, b.y0, b.x1, b.y1, b.score) for region, b in zip(named, boxes, strict=True)]


def _drawn_on_stored_pixels(
    annotation: Annotation, width: int, height: int, orientation: int, drawn_on: BoxOrientation
) -> bool:
    """Whether boxes were drawn on stored pixels (see docs/boxes.md). ValueError if the size is of neither, or the boxes
    fit both.
    """
    stored = (height, width) if orientation >= 5 else (width, height)
    if annotation.size not in (None, (width, height), stored):
        drawn = " x ".join(str(side) for side in annotation.size or ())
        raise ValueError(f"its boxes were drawn on {drawn} pixels, the photograph has {width} x {height}")
    if drawn_on != "auto":
        return drawn_on == "stored"
    if annotation.relative or annotation.size in (None, (width, height)):
        return False
    # Old LabelImg and CVAT draw on the stored pixels; Label Studio's COCO has upright boxes next to the stored size.
    fits_upright, fits_stored = _fits(annotation, width, height), _fits(annotation, *stored)
    if fits_upright and fits_stored:
        what = f"EXIF rotates the photograph to {width} x {height} pixels"
        what += f", its boxes have {stored[0]} x {stored[1]} and fit both"
        raise ValueError(f"{what}: choose with `--box-orientation upright` or `--box-orientation stored`")
    return fits_stored


def _fits(annotation: Annotation, width: int, height: int) -> bool:
    return all(box.x1 <= width + _TOLERANCE and box.y1 <= height + _TOLERANCE for box in annotation.boxes)


def _thinnest(boxes: list[Box]) -> list[str]:
    """Regions of the boxes: the one with the largest aspect ratio is the vein.

    On the released labels this is the middle box of cotton in 469 of 480 photographs, and class 0 of soy in 1101 of
    1150; the smallest width gives 462 and 167, the smallest side 462 and 1011.
    """
    if not boxes:
        return []
    vein = max(
        range(len(boxes)), key=lambda k: max(boxes[k].width, boxes[k].height) / min(boxes[k].width, boxes[k].height)
    )
    return ["vein" if k == vein else "contour" for k in range(len(boxes))]


def _clip_box(box: Box, width: int, height: int) -> Box:
    corners = f"({box.x0:.0f}, {box.y0:.0f}) to ({box.x1:.0f}, {box.y1:.0f})"
    if not (
        -_TOLERANCE <= box.x0 <= box.x1 <= width + _TOLERANCE and -_TOLERANCE <= box.y0 <= box.y1 <= height + _TOLERANCE
    ):
        raise ValueError(f"a box {corners} lies outside the photograph of {width} x {height} pixels")
    inside = Box(
        box.region, max(box.x0, 0.0), max(box.y0, 0.0), min(box.x1, float(width)), min(box.y1, float(height)), box.score
    )
    if inside.width <= 0 or inside.height <= 0:
        raise ValueError(f"a box {corners} has no area")
    return inside

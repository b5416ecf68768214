"""Box annotations of eight photographs as annotation tools write them, and what is read of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ufgvc.data.readers.box_classes import choose_rules, to_regions
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
    """What is read, and what of it belongs to the eight photographs."""
    found = read_boxes(str(folder), cultivars)
    return found, match_boxes(found, PHOTOS)


def regions(folder: Path | str, photo: str = PHOTOS[0]) -> list[str]:
    """The regions of a photograph of 96 x 72 pixels in the order of their boxes."""
    found, photos = matched(folder)
    rules = choose_rules(set(found.labels()), "auto")
    return [box.region for box in to_regions(photos.by_path[photo], 96, 72, rules)]


def coco(photos: list[str], only: str | None = None, size: bool = True) -> dict[str, Any]:
    """A vein and two contours on each photograph, or only the boxes of one class."""
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


def voc(objects: str = "", size: str = "<width>96</width><height>72</height>", head: str = "") -> str:
    """A file of Pascal VOC with these objects."""
    return f"{head}<annotation><filename>Blätt.jpg</filename><size>{size}</size>{objects}</annotation>"

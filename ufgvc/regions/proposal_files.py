"""Photographs with proposed boxes, in the forms that annotation tools read: YOLO, Pascal VOC, COCO, Label Studio."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as Xml

from ufgvc.core.storage import Store
from ufgvc.core.types import Box
from ufgvc.data.images import decode
from ufgvc.data.resize import encode_thumbnail

QUALITY = 95  # of photographs that are written upright
COCO, LABEL_STUDIO = "coco.json", "label-studio.json"


@dataclass(frozen=True)
class Proposal:
    """A leaf with proposed boxes, in pixels of the upright photograph.  width, height: of it."""

    image_id: str
    width: int
    height: int
    boxes: tuple[Box, ...]

    @property
    def file(self) -> str:
        """Its photograph below images/."""
        return f"{self.image_id}.jpg"


def write_proposals(
    store: Store, rows: Iterable[Mapping[str, Any]], proposals: Sequence[Proposal], regions: Sequence[str]
) -> None:
    """Writes images/, yolo/, voc/, coco.json and label-studio.json.

    rows: of the same images (image_id, image, orientation), in any order. Photographs are written upright as JPEG, so
    that no tool has to turn them.  regions: names of the classes, in the order of their numbers.
    """
    for name in ("images", "yolo", "voc"):
        store.delete_tree(name)  # of an earlier call
    for row in rows:
        pixels = decode(row["image"], row["orientation"])
        store.write_bytes(f"images/{row['image_id']}.jpg", encode_thumbnail(pixels, max(pixels.shape), QUALITY))
    names = "".join(f"{region}\n" for region in regions)
    store.write_text("yolo/classes.txt", names)
    for proposal in proposals:
        store.write_text(f"yolo/{proposal.image_id}.txt", to_yolo(proposal, regions))
        store.write_text(f"voc/{proposal.image_id}.xml", to_voc(proposal))
    store.write_json(COCO, to_coco(proposals, regions))
    store.write_json(LABEL_STUDIO, to_label_studio(proposals))


def to_yolo(proposal: Proposal, regions: Sequence[str]) -> str:
    """A line `class x y width height` for each box, in shares of width and height."""
    w, h = proposal.width, proposal.height
    return "".join(
        f"{regions.index(box.region)} {(box.x0 + box.x1) / 2 / w:.6f} {(box.y0 + box.y1) / 2 / h:.6f} "
        f"{box.width / w:.6f} {box.height / h:.6f}\n"
        for box in proposal.boxes
    )


def to_voc(proposal: Proposal) -> str:
    """A Pascal VOC file, as LabelImg writes it."""
    root = Xml.Element("annotation")
    Xml.SubElement(root, "filename").text = proposal.file
    size = Xml.SubElement(root, "size")
    for name, value in (("width", proposal.width), ("height", proposal.height), ("depth", 3)):
        Xml.SubElement(size, name).text = str(value)
    for box in proposal.boxes:
        item = Xml.SubElement(root, "object")
        Xml.SubElement(item, "name").text = box.region
        corners = Xml.SubElement(item, "bndbox")
        for name, edge in (("xmin", box.x0), ("ymin", box.y0), ("xmax", box.x1), ("ymax", box.y1)):
            Xml.SubElement(corners, name).text = f"{edge:.1f}"
    Xml.indent(root)
    return Xml.tostring(root, encoding="unicode") + "\n"


def to_coco(proposals: Sequence[Proposal], regions: Sequence[str]) -> dict[str, Any]:
    """A COCO file, as CVAT reads it; boxes are x, y, width, height in pixels."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, each in enumerate(proposals, start=1):
        images.append({"id": number, "file_name": each.file, "width": each.width, "height": each.height})
        for box in each.boxes:
            corners = [round(value, 1) for value in (box.x0, box.y0, box.width, box.height)]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": regions.index(box.region) + 1,
                    "bbox": corners,
                    "area": round(box.area, 1),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": region} for number, region in enumerate(regions, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def to_label_studio(proposals: Sequence[Proposal]) -> list[dict[str, Any]]:
    """Tasks of Label Studio with the boxes as predictions, in percent, for its template of object detection.

    The photographs are found below images/ of its local storage.
    """
    tasks: list[dict[str, Any]] = []
    for each in proposals:
        results = [
            {
                "from_name": "label",
                "to_name": "image",
                "type": "rectanglelabels",
                "original_width": each.width,
                "original_height": each.height,
                "value": {
                    "x": 100 * box.x0 / each.width,
                    "y": 100 * box.y0 / each.height,
                    "width": 100 * box.width / each.width,
                    "height": 100 * box.height / each.height,
                    "rectanglelabels": [box.region],
                },
                "score": box.score,
            }
            for box in each.boxes
        ]
        data = {"image": f"/data/local-files/?d=images/{each.file}"}
        tasks.append({"data": data, "predictions": [{"model_version": "ufgvc", "result": results}]})
    return tasks

"""Photographs with boxes of three regions of the user's own, and batches with their masks."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.factories import image_folder
from ufgvc.data.dataset import Dataset
from ufgvc.data.ingest import IngestSettings, ingest
from ufgvc.methods.method import Batch

OWN = ("midrib", "margin", "base")
WIDTH, HEIGHT = 60, 40  # pixels of the photographs of `image_folder`
CORNERS = {"midrib": (5.0, 17.0, 55.0, 23.0), "margin": (2.0, 2.0, 58.0, 38.0), "base": (0.0, 10.0, 12.0, 30.0)}


def photographs(root: Path) -> list[str]:
    """Paths below `root`, of 6 training and 6 test photographs of two cultivars; writes them if they are not there."""
    if not root.exists():
        image_folder(root, each=3)
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.jpg"))


def write_coco(root: Path, target: Path, without: tuple[str, ...] = (), annotated: int = 12) -> str:
    """A COCO file with a box of every region on every photograph, and classes in capitals.

    without: regions that get none.  annotated: photographs that are listed, training ones last.
    """
    names = photographs(root)[-annotated:]
    images = [{"id": k, "file_name": name, "width": WIDTH, "height": HEIGHT} for k, name in enumerate(names)]
    categories = [{"id": k, "name": region.title()} for k, region in enumerate(OWN)]
    boxes = [
        {"id": 0, "image_id": image["id"], "category_id": k, "bbox": [x0, y0, x1 - x0, y1 - y0]}
        for image in images
        for k, (region, (x0, y0, x1, y1)) in enumerate(CORNERS.items())
        if region not in without
    ]
    target.write_text(json.dumps({"images": images, "categories": categories, "annotations": boxes}))
    return str(target)


def ingested(folder: Path, **changes: object) -> Dataset:
    """The data set of these photographs and boxes below `folder`."""
    source = folder / "photographs"
    photographs(source)
    boxes = write_coco(source, folder / "boxes.json")
    settings = IngestSettings.model_validate({"regions": OWN, **changes})
    return ingest(str(source), str(folder / "data"), boxes=boxes, settings=settings)


def batch_with(regions: tuple[str, ...], count: int = 4, side: int = 64, classes: int = 4) -> Batch:
    """A batch of random images and masks of these regions."""
    generator = torch.Generator().manual_seed(0)
    masks = {region: (torch.rand(count, 1, side, side, generator=generator) > 0.7).float() for region in regions}
    has_mask = {region: torch.ones(count, dtype=torch.bool) for region in regions}
    images = torch.rand(count, 3, side, side, generator=generator)
    return Batch(images, torch.arange(count) % classes, masks, has_mask)

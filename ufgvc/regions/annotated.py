"""Annotated images: listing them, splitting them for a detector, and writing them as a YOLO data set."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ufgvc.core.errors import UserError
from ufgvc.core.types import Box
from ufgvc.data.dataset import Dataset, Manifest, read_images, read_shard
from ufgvc.data.images import Pixels, decode
from ufgvc.data.resize import resize_longest
from ufgvc.data.schemas import to_boxes

ANNOTATED = "regions/annotated"
MIN_ANNOTATED = 4  # training images; with fewer there are none to evaluate on


@dataclass(frozen=True)
class AnnotatedImage:
    """An image with boxes.  shard, row: where its bytes are."""

    image_id: str
    split: str
    shard: str
    row: int
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class DetectorSplit:
    """The images that a detector is trained and evaluated on.  evaluated_on: describes the latter to the user."""

    train: tuple[AnnotatedImage, ...]
    evaluation: tuple[AnnotatedImage, ...]
    evaluated_on: str


def list_annotated(dataset: Dataset, manifest: Manifest) -> list[AnnotatedImage]:
    """Every image with at least one annotated box, in shard order.  manifest: of ANNOTATED."""
    images = []
    for shard in manifest.shards:
        table = read_shard(dataset, ANNOTATED, shard)
        pairs = zip(table["image_id"].to_pylist(), table["boxes"].to_pylist(), strict=True)
        for row, (image_id, value) in enumerate(pairs):
            if boxes := to_boxes(value):
                images.append(AnnotatedImage(image_id, shard.split, shard.name, row, tuple(boxes)))
    return images


def split_annotated(images: Sequence[AnnotatedImage], count: int, seed: int, where: str) -> DetectorSplit:
    """Samples up to `count` annotated training images to train on, and chooses the images to evaluate on.

    The detector is evaluated on the annotated test images; if there are none, on the training images that were not
    sampled; if there are none either, on a fifth of the sampled ones, which is then not trained on. The result depends
    on the seed and the image_ids only. With `count` 0 none is trained on. UserError, at `where`, with fewer than
    MIN_ANNOTATED annotated training images, or with count 0 and none at all.
    """
    train = sorted((image for image in images if image.split == "train"), key=lambda image: image.image_id)
    test = tuple(image for image in images if image.split == "test")
    if not count:
        if not images:
            fix = "annotate some leaves; `ufgvc suggest` proposes boxes without any"
            raise UserError("no photograph has boxes to measure the detector on", where=where, fix=fix)
        return DetectorSplit((), test or tuple(train), f"annotated {'test' if test else 'training'} leaves")
    if len(train) < MIN_ANNOTATED:
        raise UserError(
            f"only {len(train)} training photographs have boxes; the detector needs {MIN_ANNOTATED} or more, better 30",
            where=where,
            fix="annotate more training leaves and run `ufgvc ingest --boxes <folder>` again",
        )
    random.Random(f"annotated leaves {seed}").shuffle(train)
    sampled, rest = train[:count], train[count:]
    if test:
        return DetectorSplit(tuple(sampled), test, "annotated test leaves")
    if rest:
        return DetectorSplit(tuple(sampled), tuple(rest), "annotated training leaves that were not sampled")
    held = max(1, len(sampled) // 5)
    return DetectorSplit(
        tuple(sampled[held:]), tuple(sampled[:held]), "a fifth of the annotated training leaves, held out"
    )


def read_pixels(dataset: Dataset, images: Sequence[AnnotatedImage]) -> Iterator[tuple[AnnotatedImage, Pixels]]:
    """(image, (H, W, 3) uint8) of each image, shard by shard; one shard is in memory at a time.

    UserError if a row holds another image, because the annotations are of another version of the data set.
    """
    for name in sorted({image.shard for image in images}):
        table = read_images(dataset, name)
        for image in (image for image in images if image.shard == name):
            row = table.slice(image.row, 1).to_pylist()[0]
            if row["image_id"] != image.image_id:
                raise UserError(
                    f"row {image.row} of {name} is {row['image_id']}, its boxes are those of {image.image_id}",
                    where=dataset.store.uri,
                    fix="run `ufgvc ingest` again",
                )
            yield image, decode(row["image"], row["orientation"])


def write_example(
    folder: Path, stem: str, image: Pixels, boxes: Sequence[Box], regions: Sequence[str], side: int
) -> None:
    """Adds an annotated image to a YOLO data set (`images`, `labels`), its longest side resized to `side` pixels.

    regions: names in the order of their class ids; boxes of others are left out.
    """
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    height, width = image.shape[:2]
    Image.fromarray(resize_longest(image, side)).save(folder / "images" / f"{stem}.png", compress_level=1)
    lines = [
        f"{regions.index(b.region)} {(b.x0 + b.x1) / 2 / width:.6f} {(b.y0 + b.y1) / 2 / height:.6f} "
        f"{b.width / width:.6f} {b.height / height:.6f}"
        for b in boxes
        if b.region in regions
    ]
    (folder / "labels" / f"{stem}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

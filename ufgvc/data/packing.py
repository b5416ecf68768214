"""One task a part: photographs and boxes in, a part of images and one of regions out, and a small index of what they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ufgvc.core.errors import UnreadableFile
from ufgvc.core.storage import Store
from ufgvc.core.types import Box
from ufgvc.data.dataset import INDEX_COLUMNS, SCHEMAS, SPLITS, Shard, ShardWriter, from_boxes, part_name
from ufgvc.data.duplicates import Looks
from ufgvc.data.images import BadImage, inspect_with_sketch, strip_metadata
from ufgvc.data.readers.box_classes import BoxOrientation, BoxRules, to_regions
from ufgvc.data.readers.box_files import Annotation
from ufgvc.data.readers.listing import Photo
from ufgvc.data.readers.scan import Rejected

_READERS = 8  # photographs in flight from storage within one task


@dataclass(frozen=True)
class Job:
    """The photographs of one part, and their boxes as their files have them (None: not annotated)."""

    name: str
    split: str
    photos: tuple[Photo, ...]
    annotations: tuple[Annotation | None, ...]


@dataclass(frozen=True)
class Packed:
    """What a task has written. images, regions: None if no photograph was left. index: the images' columns without the bytes.

    looks: what the photographs of the index look like, in its order; nothing of it is stored.
    """

    images: Shard | None
    regions: Shard | None
    index: pa.Table
    looks: Looks
    rejected: list[Rejected] = field(default_factory=list)


@dataclass(frozen=True)
class Packer:
    """Reads, checks, strips and writes one part. Picklable: it is what the Ray tasks run."""

    source: Store
    boxes_uri: str | None
    rules: BoxRules
    drawn_on: BoxOrientation
    images: ShardWriter
    regions: ShardWriter

    def __call__(self, job: Job) -> Packed:
        rejected: list[Rejected] = []
        rows: list[dict[str, Any]] = []
        boxes: list[list[dict[str, Any]] | None] = []
        sketches: list[np.ndarray] = []
        with ThreadPoolExecutor(_READERS) as pool:
            read = pool.map(self._read, (photo.path for photo in job.photos))
            for photo, annotation, data in zip(job.photos, job.annotations, read, strict=True):
                row = self._row(photo, data, rejected, sketches)
                if row is not None:
                    rows.append(row)
                    boxes.append(from_boxes(self._boxes(annotation, row, rejected)))
        table = pa.Table.from_pylist(rows, schema=SCHEMAS["images"])
        index, looks = table.select(INDEX_COLUMNS), Looks.of(sketches)
        if not rows:
            return Packed(None, None, index, looks, rejected)
        regions = pa.table(
            {"image_id": table["image_id"], "boxes": pa.array(boxes, SCHEMAS["regions"].field("boxes").type)}
        )
        images_part = self.images.write(job.name, job.split, table)
        regions_part = self.regions.write(job.name, job.split, regions)
        return Packed(images_part, regions_part, index, looks, rejected)

    def _read(self, path: str) -> bytes | BadImage:
        try:
            return self.source.read_bytes(path)
        except FileNotFoundError:
            return BadImage("was listed, but is gone")
        except UnreadableFile as error:
            return BadImage(error.what)

    def _row(
        self, photo: Photo, data: bytes | BadImage, rejected: list[Rejected], sketches: list[np.ndarray]
    ) -> dict[str, Any] | None:
        try:
            if isinstance(data, BadImage):
                raise data
            info, sketch = inspect_with_sketch(data)
            stored = strip_metadata(data)
        except BadImage as error:
            rejected.append(Rejected(photo.path, error.reason))
            return None
        sketches.append(sketch)
        return {
            "image_id": photo.image_id,
            "image": stored,
            "orientation": info.orientation,
            "height": info.height,
            "width": info.width,
            "label": photo.label,
            "cultivar": photo.cultivar,
            "split": photo.split,
            "group": photo.group,
            "sha256": hashlib.sha256(data).hexdigest(),
        }

    def _boxes(self, annotation: Annotation | None, row: dict[str, Any], rejected: list[Rejected]) -> list[Box] | None:
        """The regions of a photograph; bad boxes are rejected as a whole, and the photograph counts as not annotated."""
        if annotation is None:
            return None
        try:
            return to_regions(annotation, row["width"], row["height"], self.rules, row["orientation"], self.drawn_on)
        except ValueError as error:
            rejected.append(Rejected(f"{self.boxes_uri}/{annotation.file}", f"{error} (photograph {row['image_id']})"))
            return None


def plan_parts(photos: Iterable[Photo], annotations: dict[str, Annotation], part_bytes: int) -> Iterator[Job]:
    """Cuts every split into parts of at most `part_bytes` (or one photograph), in an order that mixes the cultivars.

    The order depends on the image_ids only, so that whoever streams part after part does not meet one cultivar after the other.
    """
    photos = list(photos)
    for split in SPLITS:
        ordered = sorted((photo for photo in photos if photo.split == split), key=lambda photo: _mixed(photo.image_id))
        chunk: list[Photo] = []
        size = number = 0
        for photo in ordered:
            if chunk and size + photo.size > part_bytes:
                yield _job(split, number, chunk, annotations)
                chunk, size, number = [], 0, number + 1
            chunk.append(photo)
            size += photo.size
        if chunk:
            yield _job(split, number, chunk, annotations)


def _job(split: str, number: int, photos: list[Photo], annotations: dict[str, Annotation]) -> Job:
    return Job(part_name(split, number), split, tuple(photos), tuple(annotations.get(photo.path) for photo in photos))


def _mixed(image_id: str) -> bytes:
    return hashlib.blake2b(image_id.encode(), digest_size=16).digest()

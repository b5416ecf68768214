"""Packs images and boxes into shards, one Ray task a shard."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from ufgvc.core.errors import UnreadableFile
from ufgvc.core.storage import Store
from ufgvc.core.types import Box
from ufgvc.data.dataset import SPLITS, Shard, ShardWriter, shard_name
from ufgvc.data.duplicates import ImageSignatures, SignatureList
from ufgvc.data.images import BadImage, inspect_with_thumbnail, strip_metadata
from ufgvc.data.readers.box_classes import BoxOrientation, BoxRules, to_regions
from ufgvc.data.readers.box_files import Annotation
from ufgvc.data.readers.photos import Photo, Photos, hash_order, text_hashes
from ufgvc.data.readers.scan import Rejected
from ufgvc.data.schemas import IMAGES_SCHEMA, INDEX_COLUMNS, REGIONS_SCHEMA, from_boxes
from ufgvc.runtime.tasks import map_in_threads

_READ_THREADS = 8  # a task waits for storage most of the time; photos are decoded one at a time, for memory


@dataclass(frozen=True)
class ShardPlan:
    """The photos of one shard, and their boxes as the files have them (None: not annotated)."""

    name: str
    split: str
    photos: tuple[Photo, ...]
    annotations: tuple[Annotation | None, ...]


@dataclass(frozen=True)
class PackedShard:
    """What a task has written.

    images, regions: None if every photo was rejected.  index: the written rows without the image bytes.
    signatures: of the images in `index`, in its order; they are not stored.
    """

    images: Shard | None
    regions: Shard | None
    index: pa.Table
    signatures: ImageSignatures
    rejected: list[Rejected] = field(default_factory=list)


@dataclass(frozen=True)
class Packer:
    """Reads, checks, strips and writes the photos of one shard. Picklable, for use in Ray tasks.

    source: where the photos are.  boxes_uri: where the boxes are, for messages.  rules, box_orientation: how box files
    are read.  images, regions: the writers.
    """

    source: Store
    boxes_uri: str | None
    rules: BoxRules
    box_orientation: BoxOrientation
    images: ShardWriter
    regions: ShardWriter

    def __call__(self, plan: ShardPlan) -> PackedShard:
        """Writes one shard of images and one of boxes."""
        rejected: list[Rejected] = []
        rows: list[dict[str, Any]] = []
        boxes: list[list[dict[str, Any]] | None] = []
        signatures = SignatureList()
        contents = map_in_threads(self._read, plan.photos, _READ_THREADS)
        for photo, annotation, content in zip(plan.photos, plan.annotations, contents, strict=True):
            one = content if isinstance(content, BadImage) else self._make_row(photo, content)
            if isinstance(one, BadImage):
                rejected.append(Rejected(photo.path, one.reason))
                continue
            row, thumbnail = one
            signatures.add(thumbnail)
            rows.append(row)
            boxes.append(from_boxes(self._make_boxes(annotation, row, rejected)))
        table = pa.Table.from_pylist(rows, schema=IMAGES_SCHEMA)
        index = table.select(INDEX_COLUMNS)
        if not rows:
            return PackedShard(None, None, index, signatures.all(), rejected)
        regions = pa.table(
            {"image_id": table["image_id"], "boxes": pa.array(boxes, REGIONS_SCHEMA.field("boxes").type)}
        )
        images_shard = self.images.write(plan.name, plan.split, table)
        regions_shard = self.regions.write(plan.name, plan.split, regions)
        return PackedShard(images_shard, regions_shard, index, signatures.all(), rejected)

    def _read(self, photo: Photo) -> bytes | BadImage:
        """The file; why not, if it cannot be read."""
        try:
            return self.source.read_bytes(photo.path)
        except FileNotFoundError:
            return BadImage("was listed, but is gone")
        except UnreadableFile as error:
            return BadImage(error.what)

    def _make_row(self, photo: Photo, content: bytes) -> tuple[dict[str, Any], np.ndarray] | BadImage:
        """The photo's row in the table of images, and its thumbnail; why not, if it is rejected."""
        try:
            info, thumbnail = inspect_with_thumbnail(content)
            stored = strip_metadata(content)
        except BadImage as error:
            return error
        row = {
            "image_id": photo.image_id,
            "image": stored,
            "orientation": info.orientation,
            "height": info.height,
            "width": info.width,
            "label": photo.label,
            "cultivar": photo.cultivar,
            "split": photo.split,
            "group": photo.group,
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        return row, thumbnail

    def _make_boxes(
        self, annotation: Annotation | None, row: dict[str, Any], rejected: list[Rejected]
    ) -> list[Box] | None:
        """The boxes of an image. If one is bad, all are rejected, and the image counts as not annotated."""
        if annotation is None:
            return None
        try:
            return to_regions(
                annotation, row["width"], row["height"], self.rules, row["orientation"], self.box_orientation
            )
        except ValueError as error:
            rejected.append(Rejected(f"{self.boxes_uri}/{annotation.file}", f"{error} (photograph {row['image_id']})"))
            return None


def plan_shards(photos: Photos, annotations: dict[str, Annotation], shard_bytes: int) -> Iterator[ShardPlan]:
    """Divides every split into shards of at most `shard_bytes` of image files (or one photo), in shuffled order.

    annotations: {photo's path: boxes}. The order depends on the image_ids only. It mixes the cultivars, so that
    consecutive shards do not hold one cultivar after the other.
    """
    for code, split in enumerate(SPLITS):
        rows = np.flatnonzero(photos.splits == code)
        order = rows[hash_order(text_hashes(photos.ids(rows), len(rows), _hash))]
        chunk: list[Photo] = []
        size = number = 0
        for photo in (photos[int(row)] for row in order):
            if chunk and size + photo.size > shard_bytes:
                yield _plan(split, number, chunk, annotations)
                chunk, size, number = [], 0, number + 1
            chunk.append(photo)
            size += photo.size
        if chunk:
            yield _plan(split, number, chunk, annotations)


def _plan(split: str, number: int, photos: list[Photo], annotations: dict[str, Annotation]) -> ShardPlan:
    boxes = tuple(annotations.get(photo.path) for photo in photos)
    return ShardPlan(shard_name(split, number), split, tuple(photos), boxes)


def _hash(image_id: str) -> bytes:
    return hashlib.blake2b(image_id.encode(), digest_size=16).digest()

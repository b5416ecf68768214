"""The annotated leaves of a data set: which train a detector, which measure it, and their photographs."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ufgvc.core.errors import UserError
from ufgvc.core.types import Box
from ufgvc.data.dataset import Dataset, Manifest, read_images, read_shard, to_boxes
from ufgvc.data.images import decode
from ufgvc.regions.letterbox import Pixels

ANNOTATED = "regions/annotated"
METRICS = "metrics.json"  # of a detector's run; written last, so a run that has it is whole
FEWEST = 4  # fewer leaves teach nothing and leave none to measure


@dataclass(frozen=True)
class Leaf:
    """An annotated photograph. row: where it stands in its shard."""

    image_id: str
    split: str
    shard: str
    row: int
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class DetectorSplit:
    """train: what the detector sees. unseen: what measures it. measured_on: where those come from, for people."""

    train: tuple[Leaf, ...]
    unseen: tuple[Leaf, ...]
    measured_on: str


def list_annotated(dataset: Dataset, manifest: Manifest) -> list[Leaf]:
    """Every photograph that somebody drew boxes on, in shard order."""
    leaves = []
    for shard in manifest.shards:
        table = read_shard(dataset, ANNOTATED, shard)
        for row, (image_id, value) in enumerate(
            zip(table["image_id"].to_pylist(), table["boxes"].to_pylist(), strict=True)
        ):
            boxes = to_boxes(value)
            if boxes:
                leaves.append(Leaf(image_id, shard.split, shard.name, row, tuple(boxes)))
    return leaves


def split_annotated(leaves: Sequence[Leaf], count: int, seed: int, where: str) -> DetectorSplit:
    """Draws `count` of the annotated training leaves (all, if there are fewer) and names those that measure the detector.

    Those are the annotated test leaves; without any, the training leaves that were not drawn; without those either, a fifth of the
    drawn ones is held back. The draw depends on the seed and the image_ids only. UserError with fewer than four annotated training leaves.
    """
    train = sorted((leaf for leaf in leaves if leaf.split == "train"), key=lambda leaf: leaf.image_id)
    test = tuple(leaf for leaf in leaves if leaf.split == "test")
    if len(train) < FEWEST:
        raise UserError(
            f"only {len(train)} training photographs have boxes; the detector needs at least {FEWEST}, better 30",
            where=where,
            fix="draw boxes on more training leaves and run `ufgvc ingest --boxes <folder>` again",
        )
    random.Random(f"annotated leaves {seed}").shuffle(train)
    drawn, rest = train[:count], train[count:]
    if test:
        return DetectorSplit(tuple(drawn), test, "annotated test leaves")
    if rest:
        return DetectorSplit(tuple(drawn), tuple(rest), "annotated training leaves that were not drawn")
    held = max(1, len(drawn) // 5)
    return DetectorSplit(
        tuple(drawn[held:]), tuple(drawn[:held]), "a fifth of the annotated training leaves, held back"
    )


def photographs(dataset: Dataset, leaves: Sequence[Leaf]) -> Iterator[tuple[Leaf, Pixels]]:
    """(leaf, (H, W, 3) uint8) of each leaf, shard by shard: one shard is in memory at a time."""
    for name in sorted({leaf.shard for leaf in leaves}):
        table = read_images(dataset, name)
        for leaf in (leaf for leaf in leaves if leaf.shard == name):
            row = table.slice(leaf.row, 1).to_pylist()[0]
            if row["image_id"] != leaf.image_id:
                raise UserError(
                    f"row {leaf.row} of {name} is {row['image_id']}, its boxes are those of {leaf.image_id}",
                    where=dataset.store.uri,
                    fix="run `ufgvc ingest` again",
                )
            yield leaf, decode(row["image"], row["orientation"])

"""What a mask actor does: holds the detector, takes one shard of the images, writes the shards of boxes and masks of the same name."""

from __future__ import annotations

import json
import logging
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ufgvc.core.storage import Store
from ufgvc.core.types import REGIONS, Box
from ufgvc.data.dataset import SCHEMAS, Dataset, Shard, ShardWriter, from_boxes, read_images, read_shard, to_boxes
from ufgvc.data.images import BadImage, decode, encode_mask
from ufgvc.regions.annotated import ANNOTATED
from ufgvc.regions.boxes import select_boxes
from ufgvc.regions.detector import Detector, load_detector
from ufgvc.regions.letterbox import Pixels
from ufgvc.regions.masks import make_masks
from ufgvc.runtime.resources import TorchDevice

log = logging.getLogger(__name__)
DETECTED = "regions/detected"
OVERLAP = 0.5  # IoU above which two boxes of a region are one
Boxes = list[Box] | None


class ShardMasker:
    """Callable for Ray Data's `map`: {"shard": JSON of a Part of the images} -> what was written, as JSON, and how many leaves
    have which regions ({"vein+contour": 7, "": 1}).

    detector: store of a detector's folder, None if boxes are only read. source: as in MaskSettings.boxes, or "known" for boxes that
    regions/detected holds already. threads: decoding ones; the network itself computes on one CPU thread an actor.
    """

    def __init__(
        self,
        dataset: Dataset,
        writers: dict[str, ShardWriter],
        detector: Store | None,
        source: str,
        kind: str,
        confidence: float,
        batch: int,
        threads: int,
        device: TorchDevice,
    ) -> None:
        self.dataset, self.writers, self.source, self.kind = dataset, writers, source, kind
        self.confidence, self.batch, self.threads = confidence, batch, threads
        self.detector: Detector | None = None
        torch.set_num_threads(1)
        if detector is not None:
            with tempfile.TemporaryDirectory(prefix="ufgvc-detector-") as folder:
                detector.download(Path(folder))
                self.detector = load_detector(Path(folder), device)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        shard = Shard(**json.loads(row["shard"]))
        images = read_images(self.dataset, shard)
        ids = images["image_id"].to_pylist()
        given = self._given(shard, ids)
        detected: list[Boxes] = []
        masks: list[dict[str, Any]] = []
        failed: list[tuple[str, str]] = []
        for first in range(0, len(ids), self.batch):
            rows = images.slice(first, self.batch).to_pylist()
            pixels = self._decode(rows, failed)
            found = self._find(rows, pixels, failed)
            detected += found
            for offset, (photo, leaf, boxes) in enumerate(zip(rows, pixels, found, strict=True)):
                used = self._choose(given[first + offset] if given else None, boxes)
                masks.append({"image_id": photo["image_id"], **self._masks(leaf, used)})
        answer = {
            "masks": json.dumps(asdict(self._write("masks", shard, pa.Table.from_pylist(masks, SCHEMAS["masks"])))),
            "detected": "",
            "found": json.dumps(
                Counter("+".join(region for region in REGIONS if mask[region] is not None) for mask in masks)
            ),
            "failed": json.dumps(failed),
        }
        if self.detector is not None:
            table = pa.table({"image_id": ids, "boxes": [from_boxes(boxes) for boxes in detected]}, SCHEMAS["regions"])
            answer["detected"] = json.dumps(asdict(self._write("detected", shard, table)))
        return answer

    def _given(self, shard: Shard, ids: list[str]) -> list[Boxes] | None:
        """Boxes that stand in the data set already, row by row."""
        if self.source == "detected":
            return None
        table = read_shard(self.dataset, DETECTED if self.source == "known" else ANNOTATED, shard)
        if table["image_id"].to_pylist() != ids:
            raise ValueError(f"{shard.name}: boxes and images stand in different orders")
        return [to_boxes(value) for value in table["boxes"].to_pylist()]

    def _decode(self, rows: Sequence[dict[str, Any]], failed: list[tuple[str, str]]) -> list[Pixels | None]:
        def one(row: dict[str, Any]) -> Pixels | BadImage:
            try:
                return decode(row["image"], row["orientation"])
            except BadImage as error:
                return error

        with ThreadPoolExecutor(self.threads) as pool:
            decoded = list(pool.map(one, rows))
        failed += [
            (row["image_id"], got.reason) for row, got in zip(rows, decoded, strict=True) if isinstance(got, BadImage)
        ]
        return [None if isinstance(got, BadImage) else got for got in decoded]

    def _find(
        self, rows: Sequence[dict[str, Any]], pixels: list[Pixels | None], failed: list[tuple[str, str]]
    ) -> list[Boxes]:
        found: list[Boxes] = [None] * len(rows)
        if self.detector is None:
            return found
        there = [k for k, image in enumerate(pixels) if image is not None]
        images: list[Pixels] = [image for image in pixels if image is not None]
        try:
            answers = self.detector.predict(images, self.confidence, OVERLAP)
        except (RuntimeError, MemoryError):  # what one photograph does must not cost the others: each on its own
            answers = []
            for k, image in zip(list(there), images, strict=True):
                try:
                    answers += self.detector.predict([image], self.confidence, OVERLAP)
                except (RuntimeError, MemoryError) as error:
                    failed.append(
                        (rows[k]["image_id"], f"the detector failed on it ({str(error).splitlines()[0][:200]})")
                    )
                    there.remove(k)
                    pixels[k] = None
        for k, boxes in zip(there, answers, strict=True):
            found[k] = select_boxes(boxes, self.confidence, self.detector.most)
        return found

    def _choose(self, given: Boxes, detected: Boxes) -> Boxes:
        return (
            detected if self.source == "detected" or (self.source == "annotated_else_detected" and not given) else given
        )

    def _masks(self, leaf: Pixels | None, boxes: Boxes) -> dict[str, bytes | None]:
        if leaf is None:
            return dict.fromkeys(REGIONS)
        made = make_masks(leaf, boxes, self.kind)
        return {region: None if mask is None else encode_mask(np.asarray(mask)) for region, mask in made.items()}

    def _write(self, name: str, shard: Shard, table: pa.Table) -> Shard:
        return self.writers[name].write(shard.name, shard.split, table)

"""The actor that makes masks: finds boxes in one shard of images and writes the shards of boxes and masks."""

from __future__ import annotations

import json
import logging
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ufgvc.core.errors import first_line
from ufgvc.core.process import keep_freed_memory
from ufgvc.core.storage import Store
from ufgvc.core.types import Box
from ufgvc.data.dataset import Dataset, Shard, ShardWriter, read_images, read_shard
from ufgvc.data.images import BadImage, Pixels, decode
from ufgvc.data.mask_png import encode_mask
from ufgvc.data.schemas import REGIONS_SCHEMA, from_boxes, masks_schema, to_boxes
from ufgvc.regions.annotated import ANNOTATED
from ufgvc.regions.masks import make_masks
from ufgvc.runtime.resources import TorchDevice

if TYPE_CHECKING:  # an actor without a detector starts without torch
    from ufgvc.regions.detector import Detector

log = logging.getLogger(__name__)
DETECTED = "regions/detected"
IOU_THRESHOLD = 0.5  # of non-maximum suppression
Boxes = list[Box] | None  # None: the image could not be read, or is not annotated


class ShardMasker:
    """Callable for `map`, also that of a Ray Dataset.

    Takes {"shard": JSON of a `Shard` of the images}. Returns, as JSON, the written shards "masks" and "detected" (""
    without a detector), "found": {combination of regions, such as "vein+contour": images with it}, and "failed":
    [(image_id, reason)] of the images that could not be read.

    writers: of "masks" and "detected".  detector: store of the detector's folder; None if boxes are only read.
    source: as `MaskSettings.boxes`, or "existing" for the boxes in regions/detected.  threads: that decode.
    device: of the network.  network_threads: CPU threads of the network; None: as many as torch takes.
    """

    def __init__(
        self,
        dataset: Dataset,
        writers: dict[str, ShardWriter],
        detector: Store | None,
        source: str,
        kind: str,
        confidence: float,
        batch_size: int,
        threads: int,
        device: TorchDevice,
        network_threads: int | None = 1,
    ) -> None:
        self.dataset, self.writers, self.source, self.kind = dataset, writers, source, kind
        self.confidence, self.batch_size, self.threads = confidence, batch_size, threads
        self.detector: Detector | None = None
        if detector is not None:
            import torch

            from ufgvc.regions.detector import load_detector

            if network_threads:
                torch.set_num_threads(network_threads)
                keep_freed_memory()
            with tempfile.TemporaryDirectory(prefix="ufgvc-detector-") as folder:
                detector.download(Path(folder))
                self.detector = load_detector(Path(folder), device)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Writes boxes and masks of one shard; a row with the result."""
        shard = Shard(**json.loads(row["shard"]))
        images = read_images(self.dataset, shard)
        ids = images["image_id"].to_pylist()
        stored = self._read_boxes(shard, ids)
        detected: list[Boxes] = []
        masks: list[dict[str, Any]] = []
        failed: list[tuple[str, str]] = []
        for start in range(0, len(ids), self.batch_size):
            rows = images.slice(start, self.batch_size).to_pylist()
            pixels = self._decode(rows, failed)
            found = self._detect(rows, pixels, failed)
            detected += found
            for offset, (image, decoded, boxes) in enumerate(zip(rows, pixels, found, strict=True)):
                used = self._choose(stored[start + offset] if stored else None, boxes)
                masks.append({"image_id": image["image_id"], **self._encode_masks(decoded, used)})
        regions = self.dataset.regions
        combinations = Counter("+".join(region for region in regions if mask[region] is not None) for mask in masks)
        result = {
            "masks": self._write("masks", shard, pa.Table.from_pylist(masks, masks_schema(regions))),
            "detected": "",
            "found": json.dumps(combinations),
            "failed": json.dumps(failed),
        }
        if self.detector is not None:
            table = pa.table({"image_id": ids, "boxes": [from_boxes(boxes) for boxes in detected]}, REGIONS_SCHEMA)
            result["detected"] = self._write("detected", shard, table)
        return result

    def _read_boxes(self, shard: Shard, ids: list[str]) -> list[Boxes] | None:
        """The boxes of the shard in the data set; None if all are detected now. ValueError if the order differs."""
        if self.source == "detected":
            return None
        table = read_shard(self.dataset, DETECTED if self.source == "existing" else ANNOTATED, shard)
        if table["image_id"].to_pylist() != ids:
            raise ValueError(f"{shard.name}: boxes and images are in different orders")
        return [to_boxes(value) for value in table["boxes"].to_pylist()]

    def _decode(self, rows: Sequence[dict[str, Any]], failed: list[tuple[str, str]]) -> list[Pixels | None]:
        def decode_row(row: dict[str, Any]) -> Pixels | BadImage:
            try:
                return decode(row["image"], row["orientation"])
            except BadImage as error:
                return error

        with ThreadPoolExecutor(self.threads) as pool:
            decoded = list(pool.map(decode_row, rows))
        failed += [
            (row["image_id"], got.reason) for row, got in zip(rows, decoded, strict=True) if isinstance(got, BadImage)
        ]
        return [None if isinstance(got, BadImage) else got for got in decoded]

    def _detect(
        self, rows: Sequence[dict[str, Any]], pixels: list[Pixels | None], failed: list[tuple[str, str]]
    ) -> list[Boxes]:
        """The selected boxes of each image. Sets the pixels of images on which the detector fails to None."""
        found: list[Boxes] = [None] * len(rows)
        if self.detector is None:
            return found
        from ufgvc.regions.boxes import select_boxes

        present = [k for k, image in enumerate(pixels) if image is not None]
        images: list[Pixels] = [image for image in pixels if image is not None]
        try:
            predictions = self.detector.predict(images, self.confidence, IOU_THRESHOLD)
        except (RuntimeError, MemoryError):  # one image may be the cause: try each alone
            predictions = []
            for k, image in zip(list(present), images, strict=True):
                try:
                    predictions += self.detector.predict([image], self.confidence, IOU_THRESHOLD)
                except (RuntimeError, MemoryError) as error:
                    reason = f"the detector failed on it ({first_line(error)[:200]})"
                    failed.append((rows[k]["image_id"], reason))
                    present.remove(k)
                    pixels[k] = None
        for k, boxes in zip(present, predictions, strict=True):
            found[k] = select_boxes(boxes, self.confidence, self.detector.max_boxes)
        return found

    def _choose(self, stored: Boxes, detected: Boxes) -> Boxes:
        use_detected = self.source == "detected" or (self.source == "annotated_else_detected" and not stored)
        return detected if use_detected else stored

    def _encode_masks(self, image: Pixels | None, boxes: Boxes) -> dict[str, bytes | None]:
        if image is None:
            return dict.fromkeys(self.dataset.regions)
        masks = make_masks(image, boxes, self.kind, self.dataset.regions)
        return {region: None if mask is None else encode_mask(mask) for region, mask in masks.items()}

    def _write(self, name: str, shard: Shard, table: pa.Table) -> str:
        """Writes a shard and returns its description as JSON."""
        return json.dumps(asdict(self.writers[name].write(shard.name, shard.split, table)))

"""Photographs and masks from storage, decoded to squares by Ray Data tasks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ufgvc.core.storage import Store, read_parquet_rows
from ufgvc.core.types import REGIONS
from ufgvc.data.dataset import Dataset, read_manifest
from ufgvc.data.images import decode, decode_mask
from ufgvc.runtime.tasks import one_task_each

ROWS_PER_TASK = 64  # one row group of a part


@dataclass(frozen=True)
class Chunk:
    """A few consecutive rows of one part.  position: index of the first of them in its split."""

    images: str
    masks: str | None
    start: int
    stop: int
    position: int

    def __len__(self) -> int:
        return self.stop - self.start


def chunks(dataset: Dataset, split: str, mask_kind: str | None) -> list[Chunk]:
    """Every row of a split, in part order. mask_kind: None reads no masks."""
    mask_files: dict[str, str] = {}
    if mask_kind:
        folder = f"masks/{mask_kind}"
        mask_files = {part.name: f"{folder}/{part.file}" for part in read_manifest(dataset, folder).parts}
    found: list[Chunk] = []
    position = 0
    for part in dataset.parts:
        if part.split != split:
            continue
        for start in range(0, part.rows, ROWS_PER_TASK):
            stop = min(start + ROWS_PER_TASK, part.rows)
            found.append(Chunk(f"images/{part.file}", mask_files.get(part.name), start, stop, position + start))
        position += part.rows
    return found


def square(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """(H, W, 3) -> (side, side, 3), antialiased; the aspect ratio is not kept, as in the paper."""
    if image.shape[:2] == (side, side):
        return image
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))


def square_mask(mask: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """(H, W) -> (side, side) by nearest neighbour: a mask stays binary."""
    if mask.shape == (side, side):
        return mask
    return np.asarray(Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST), dtype=bool)


def decode_chunk(store: Store, chunk: Chunk, side: int) -> dict[str, NDArray[Any]]:
    """position (N,) int64; image (N, side, side, 3) uint8; per region: bits (N, side, ceil(side/8)) uint8 packed, has (N,) bool.

    RuntimeError if the masks are not those of these photographs.
    """
    table = read_parquet_rows(store, chunk.images, chunk.start, chunk.stop, ["image_id", "image", "orientation"])
    rows: dict[str, NDArray[Any]] = {
        "position": np.arange(chunk.position, chunk.position + len(chunk), dtype=np.int64),
        "image": np.stack(
            [
                square(decode(image, turn), side)
                for image, turn in zip(table["image"].to_pylist(), table["orientation"].to_pylist(), strict=True)
            ]
        ),
    }
    if not chunk.masks:
        return rows
    masks = read_parquet_rows(store, chunk.masks, chunk.start, chunk.stop)
    if masks["image_id"] != table["image_id"]:
        raise RuntimeError(f"{store.uri}/{chunk.masks} does not hold the masks of {chunk.images}")
    for region in REGIONS:
        encoded = masks[region].to_pylist()
        rows[f"{region}_bits"] = np.stack([_bits(mask, side) for mask in encoded])
        rows[f"has_{region}"] = np.array([mask is not None for mask in encoded])
    return rows


def _bits(mask: bytes | None, side: int) -> NDArray[np.uint8]:
    if mask is None:
        return np.zeros((side, (side + 7) // 8), np.uint8)
    return np.packbits(square_mask(decode_mask(mask), side), axis=1)


def decoded(store: Store, tasks: list[Chunk], side: int) -> Any:
    """A Ray Dataset of the rows of `decode_chunk`, in the order of `tasks`, one task a chunk.

    Memory is bounded whatever the number of rows.
    """

    def work(batch: dict[str, Any]) -> Iterator[dict[str, NDArray[Any]]]:
        for index in batch["task"]:
            yield decode_chunk(store, tasks[int(index)], side)

    return one_task_each([{"task": index} for index in range(len(tasks))]).map_batches(work, batch_size=1, num_cpus=0.5)

"""Caches a decoded split in memory-mapped files, one copy a node, and draws training batches from it."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ufgvc.core.config import short_key
from ufgvc.core.errors import UserError, disk_errors
from ufgvc.core.storage import open_store
from ufgvc.data.dataset import Dataset
from ufgvc.data.stream import Ints, RawBatch, decode_ahead, decode_in_threads, list_chunks, num_batches
from ufgvc.data.transfer import to_device
from ufgvc.runtime.session import MAX_IN_PROCESS

log = logging.getLogger(__name__)
VERSION = 2  # of the decoded pixels: raised when photographs are resized otherwise
CACHE = "_cache"  # folder in that of all runs


@dataclass(frozen=True)
class DecodedSplit:
    """A whole split as squares of R pixels.

    images: (N, R, R, 3) uint8.  packed_masks: {region: (N, R, ceil(R/8)) uint8}, bits as of `numpy.packbits`.
    has_mask: {region: (N,) bool}.
    """

    images: NDArray[np.uint8]
    packed_masks: Mapping[str, NDArray[np.uint8]]
    has_mask: Mapping[str, NDArray[np.bool_]]


def cache_folder(runs: str) -> Path:
    """Where this node keeps decoded splits: inside a local `runs`, else in a temporary folder of this user."""
    store = open_store(runs)
    return store.local_path / CACHE if store.is_local else Path(tempfile.gettempdir()) / f"ufgvc-cache-{os.getuid()}"


def decoded_size(rows: int, side: int, num_masks: int) -> int:
    """Bytes of a decoded split with `rows` images of `side` pixels.  num_masks: of each image."""
    return rows * side * (side * 3 + num_masks * ((side + 7) // 8))


def choose_cache(cache: str, rows: int, side: int, num_masks: int, device: torch.device, folder: Path) -> str:
    """Resolves `auto`: "device" for a third of the free GPU memory, "host" for half of the free disk, else "none".

    rows, side: number and side in pixels of the decoded images.  num_masks: of each.  folder: of the cache on disk.
    """
    if cache != "auto":
        return cache
    size = decoded_size(rows, side, num_masks)
    if device.type == "cuda" and size < torch.cuda.mem_get_info(device)[0] / 3:
        return "device"
    folder.mkdir(parents=True, exist_ok=True)
    return "host" if size < shutil.disk_usage(folder).free / 2 else "none"


def load_decoded_split(
    dataset: Dataset, split: str, side: int, mask_kind: str | None, mask_fingerprint: str | None, folder: Path
) -> DecodedSplit:
    """Opens the decoded split in `folder` as memory maps, and decodes it first if it is not there.

    A file lock makes other processes that want the same split wait for the one that decodes it. mask_kind: None leaves
    the masks out. UserError if the disk is too small.
    """
    from filelock import FileLock

    rows = dataset.counts[split]
    key = short_key([dataset.fingerprint, split, side, mask_kind, mask_fingerprint, VERSION])
    target = folder / f"{dataset.name}-{split}-{side}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{target.name}.lock"):
        if not target.is_dir():
            need = decoded_size(rows, side, len(dataset.regions) if mask_kind else 0)
            if shutil.disk_usage(folder).free < 1.1 * need:
                raise UserError(
                    f"the decoded photographs need {need / 2**30:.1f} GiB of disk",
                    where=str(folder),
                    fix="use --train.cache none",
                )
            building = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=folder))
            try:
                with disk_errors(folder):
                    _build(dataset, split, side, mask_kind, building)
                    building.rename(target)
            finally:
                shutil.rmtree(building, ignore_errors=True)
    return _open(target, dataset.regions)


def _build(dataset: Dataset, split: str, side: int, mask_kind: str | None, folder: Path) -> None:
    """Decodes the split into .npy files in `folder`. RuntimeError if rows are missing."""
    rows = dataset.counts[split]
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {"image": ((rows, side, side, 3), np.uint8)}
    for region in dataset.regions if mask_kind else ():
        shapes[f"{region}_bits"] = ((rows, side, (side + 7) // 8), np.uint8)
        shapes[f"has_{region}"] = ((rows,), np.bool_)
    files = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)
        for name, (shape, dtype) in shapes.items()
    }
    for path in folder.iterdir():
        preallocate(path)
    done = 0
    chunks = list_chunks(dataset, split, mask_kind)
    decode = decode_in_threads if rows <= MAX_IN_PROCESS else decode_ahead
    for batch in decode(dataset.store, chunks, side):
        at = batch["position"]
        for name, file in files.items():
            file[at] = batch[name]
        done += len(at)
    if done != rows:
        raise RuntimeError(f"decoded {done} of the {rows} images of {split}")
    for file in files.values():
        file.flush()


def preallocate(path: Path) -> None:
    """Allocates the disk blocks of a new sparse file: writing to a memory map on a full disk would raise SIGBUS."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _open(folder: Path, regions: tuple[str, ...]) -> DecodedSplit:
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
    return DecodedSplit(
        images=arrays["image"],
        packed_masks={region: arrays[f"{region}_bits"] for region in regions if f"{region}_bits" in arrays},
        has_mask={region: arrays[f"has_{region}"] for region in regions if f"has_{region}" in arrays},
    )


def epoch_permutation(rows: int, seed: int, epoch: int) -> Ints:
    """The order of the images in one epoch, (rows,) int64: the same on every rank."""
    return np.random.default_rng(np.random.SeedSequence([seed, epoch])).permutation(rows).astype(np.int64)


@dataclass(frozen=True)
class CachedSource:
    """Draws batches from a decoded split.

    The epoch's permutation is cut into batches of nearly equal size, so that no small last batch disturbs BatchNorm.
    Rank r takes every `world`-th image of a batch, from the r-th on.

    labels: (N,) of the whole split.  positions: rows of it that are trained on.  batch_size: over all ranks.
    resident: the split in the device's memory, made by `copy_to_device`; None if it stays on the host.
    """

    data: DecodedSplit
    labels: Ints
    positions: Ints
    batch_size: int
    seed: int
    rank: int
    world: int
    device: torch.device
    resident: Mapping[str, Tensor] | None = None

    def epoch(self, epoch: int) -> Iterator[RawBatch]:
        """See `BatchSource`."""
        order = self.positions[epoch_permutation(len(self.positions), self.seed, epoch)]
        steps = num_batches(len(order), self.batch_size)
        # The whole order is copied to the device once, so that a step has to copy nothing to index the images.
        on_device = (
            None if self.resident is None else to_device(torch.from_numpy(order), self.device).tensor_split(steps)
        )
        for step, batch in enumerate(np.array_split(order, steps)):
            indices = None if on_device is None else on_device[step][self.rank :: self.world]
            yield self.gather(batch[self.rank :: self.world], indices)

    def gather(self, positions: Ints, indices: Tensor | None = None) -> RawBatch:
        """The images at these rows of the split.  indices: the same rows as a tensor on the device, if there is one."""
        if self.resident is not None:
            held = self.resident
            rows = to_device(torch.from_numpy(positions), self.device) if indices is None else indices
            masks = {region: held[f"{region}_bits"] for region in self.data.packed_masks}
            has_mask = {region: held[f"has_{region}"][rows] for region in self.data.has_mask}
            return RawBatch(held["images"], masks, rows, has_mask, held["labels"][rows], positions, self.device)

        def copy(array: NDArray[Any]) -> Tensor:
            return to_device(torch.from_numpy(array[positions]), self.device)

        has_mask = {region: copy(flags) for region, flags in self.data.has_mask.items()}
        held_masks, labels = self.data.packed_masks, copy(self.labels)
        return RawBatch(self.data.images, held_masks, positions, has_mask, labels, positions, self.device)


def copy_to_device(data: DecodedSplit, labels: Ints, device: torch.device) -> dict[str, Tensor]:
    """The decoded split in the device's memory: "images", "labels", "<region>_bits" and "has_<region>", N rows each."""
    arrays: dict[str, NDArray[Any]] = {"images": data.images, "labels": labels}
    arrays |= {f"{region}_bits": packed for region, packed in data.packed_masks.items()}
    arrays |= {f"has_{region}": flags for region, flags in data.has_mask.items()}
    return {name: torch.from_numpy(np.array(array)).to(device) for name, array in arrays.items()}

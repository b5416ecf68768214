"""The decoded set in one memory-mapped file a node: built once under a lock, shared by workers and trials."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ufgvc.core.config import short_key
from ufgvc.core.errors import UserError, disk_errors
from ufgvc.core.storage import open_store
from ufgvc.core.types import REGIONS
from ufgvc.data.dataset import Dataset
from ufgvc.data.stream import chunks, decoded

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decoded:
    """A whole split.  images: (N, R, R, 3) uint8.  bits: {region: (N, R, ceil(R/8)) uint8}, packed masks.  has: {region: (N,) bool}."""

    images: NDArray[np.uint8]
    bits: Mapping[str, NDArray[np.uint8]]
    has: Mapping[str, NDArray[np.bool_]]


def cache_folder(runs: str) -> Path:
    """Where decoded sets are kept on this node: beside local runs, else in the temporary folder of this user."""
    store = open_store(runs)
    return store.local_path / "_cache" if store.is_local else Path(tempfile.gettempdir()) / f"ufgvc-cache-{os.getuid()}"


def decoded_bytes(rows: int, side: int, with_masks: bool) -> int:
    """Bytes that a decoded split takes."""
    return rows * side * (side * 3 + (len(REGIONS) * ((side + 7) // 8) if with_masks else 0))


def decoded_split(
    dataset: Dataset, split: str, side: int, mask_kind: str | None, mask_fingerprint: str | None, folder: Path
) -> Decoded:
    """The split as memory maps. Another process that wants the same waits for the one that builds it.

    UserError if the disk is too small.
    """
    from filelock import FileLock

    rows = dataset.counts[split]
    key = short_key([dataset.fingerprint, split, side, mask_kind, mask_fingerprint, 1])
    target = folder / f"{dataset.name}-{split}-{side}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f".{target.name}.lock"):
        if not target.is_dir():
            need = decoded_bytes(rows, side, mask_kind is not None)
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
    return _open(target)


def _build(dataset: Dataset, split: str, side: int, mask_kind: str | None, folder: Path) -> None:
    rows = dataset.counts[split]
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {"image": ((rows, side, side, 3), np.uint8)}
    for region in REGIONS if mask_kind else ():
        shapes[f"{region}_bits"] = ((rows, side, (side + 7) // 8), np.uint8)
        shapes[f"has_{region}"] = ((rows,), np.bool_)
    files = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", kind, shape)
        for name, (shape, kind) in shapes.items()
    }
    for path in folder.iterdir():
        take_space(path)
    seen = 0
    tasks = chunks(dataset, split, mask_kind)
    for batch in decoded(dataset.store, tasks, side).iter_batches(batch_size=None, batch_format="numpy"):
        at = batch["position"]
        for name, file in files.items():
            file[at] = batch[name]
        seen += len(at)
    if seen != rows:
        raise RuntimeError(f"decoded {seen} of {rows} photographs of {split}; a partial set is not a set")
    for file in files.values():
        file.flush()


def take_space(path: Path) -> None:
    """Takes the disk's space for all bytes of a new file: written through memory, a full disk would kill this process (SIGBUS)."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _open(folder: Path) -> Decoded:
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
    return Decoded(
        images=arrays["image"],
        bits={region: arrays[f"{region}_bits"] for region in REGIONS if f"{region}_bits" in arrays},
        has={region: arrays[f"has_{region}"] for region in REGIONS if f"has_{region}" in arrays},
    )

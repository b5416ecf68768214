"""Where a worker's batches come from: a decoded set that it holds, or a stream of Ray Data.

Both give each image of an epoch exactly once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ufgvc.data.cache import Decoded
from ufgvc.data.dataset import Dataset
from ufgvc.data.stream import Chunk, chunks, decoded
from ufgvc.data.transfer import to_device

Ints = NDArray[np.int64]
Row = dict[str, Any]


@dataclass(frozen=True)
class RawBatch:
    """Images as decoded.  images: (B, R, R, 3) uint8.  bits: {region: (B, R, ceil(R/8)) uint8}.  has: {region: (B,) bool}.

    labels: (B,) int64.  positions: (B,) int64 on the CPU, the images' places in their split.
    """

    images: Tensor
    bits: Mapping[str, Tensor]
    has: Mapping[str, Tensor]
    labels: Tensor
    positions: Ints


class Source(Protocol):
    def epoch(self, epoch: int) -> Iterator[RawBatch]:
        """This rank's batches of a training epoch; the same number on every rank, none of them empty."""


def steps_of(rows: int, batch_size: int) -> int:
    return -(-rows // batch_size)


def permutation(rows: int, seed: int, epoch: int) -> Ints:
    """The order of one epoch: the same on every rank."""
    return np.random.default_rng(np.random.SeedSequence([seed, epoch])).permutation(rows).astype(np.int64)


@dataclass(frozen=True)
class CachedSource:
    """Batches gathered from a decoded set.

    The epoch's permutation is cut into batches as even as possible, so that the last one is not a scrap that BatchNorm would
    suffer from, and each batch is dealt to the ranks in turn.

    resident: the set in the device's memory, of `on_device`; None where it stays on the host.
    """

    data: Decoded
    labels: Ints
    positions: Ints
    batch_size: int
    seed: int
    rank: int
    world: int
    device: torch.device
    resident: Mapping[str, Tensor] | None = None

    def epoch(self, epoch: int) -> Iterator[RawBatch]:
        order = self.positions[permutation(len(self.positions), self.seed, epoch)]
        steps = steps_of(len(order), self.batch_size)
        # The whole order goes to the device at once: a step then copies nothing to find its images.
        there = None if self.resident is None else to_device(torch.from_numpy(order), self.device).tensor_split(steps)
        for step, batch in enumerate(np.array_split(order, steps)):
            yield self.take(
                batch[self.rank :: self.world], None if there is None else there[step][self.rank :: self.world]
            )

    def take(self, at: Ints, where: Tensor | None = None) -> RawBatch:
        """The leaves at these places of the split.  where: the same places on the device, if they lie there already."""
        if self.resident is not None:
            held = self.resident
            where = to_device(torch.from_numpy(at), self.device) if where is None else where
            bits = {region: held[f"{region}_bits"][where] for region in self.data.bits}
            has = {region: held[f"has_{region}"][where] for region in self.data.has}
            return RawBatch(held["images"][where], bits, has, held["labels"][where], at)

        def copied(array: NDArray[Any]) -> Tensor:
            return to_device(torch.from_numpy(array[at]), self.device)

        bits = {region: copied(packed) for region, packed in self.data.bits.items()}
        has = {region: copied(flags) for region, flags in self.data.has.items()}
        return RawBatch(copied(self.data.images), bits, has, copied(self.labels), at)


def on_device(data: Decoded, labels: Ints, device: torch.device) -> dict[str, Tensor]:
    """The decoded set in the device's memory: "images", "labels", "<region>_bits" and "has_<region>", a row for each leaf."""
    arrays: dict[str, NDArray[Any]] = {"images": data.images, "labels": labels}
    arrays |= {f"{region}_bits": bits for region, bits in data.bits.items()} | {
        f"has_{region}": has for region, has in data.has.items()
    }
    return {name: torch.from_numpy(np.array(array)).to(device) for name, array in arrays.items()}


@dataclass(frozen=True)
class StreamedSource:
    """Batches read and decoded anew every epoch: chunks in a seeded order, then a seeded shuffle buffer. Rows are counted and checked."""

    dataset: Dataset
    mask_kind: str | None
    side: int
    labels: Ints
    positions: Ints
    batch_size: int
    seed: int
    rank: int
    world: int
    device: torch.device
    buffer: int = 512

    def epoch(self, epoch: int) -> Iterator[RawBatch]:
        random = np.random.default_rng(np.random.SeedSequence([self.seed, epoch]))
        wanted = np.zeros(len(self.labels), bool)
        wanted[self.positions] = True
        whole = chunks(self.dataset, "train", self.mask_kind)
        mine, count = share([whole[i] for i in random.permutation(len(whole))], wanted, self.rank, self.world)
        sizes = [len(cut) for cut in np.array_split(np.arange(count), steps_of(len(self.positions), self.batch_size))]
        rows = _shuffled(decoded(self.dataset.store, mine, self.side), wanted, min(self.buffer, count), random)
        for size in sizes:
            taken = [row for _, row in zip(range(size), rows, strict=False)]
            if len(taken) != size:
                raise RuntimeError(
                    f"rank {self.rank}: the stream of epoch {epoch} ended early; a partial epoch is not an epoch"
                )
            yield self._batch(taken)
        if next(rows, None) is not None:
            raise RuntimeError(f"rank {self.rank}: the stream of epoch {epoch} holds more rows than the index")

    def _batch(self, rows: list[Row]) -> RawBatch:
        at = np.array([int(row["position"]) for row in rows], np.int64)
        stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0] if name != "position"}
        columns = {name: to_device(torch.from_numpy(column), self.device) for name, column in stacked.items()}
        return RawBatch(
            images=columns["image"],
            bits={name.removesuffix("_bits"): column for name, column in columns.items() if name.endswith("_bits")},
            has={name.removeprefix("has_"): column for name, column in columns.items() if name.startswith("has_")},
            labels=to_device(torch.from_numpy(self.labels[at]), self.device),
            positions=at,
        )


def share(tasks: list[Chunk], wanted: NDArray[np.bool_], rank: int, world: int) -> tuple[list[Chunk], int]:
    """The chunks, cut at row bounds, that hold this rank's even share of the wanted rows, and how many rows that is."""
    total = int(wanted.sum())
    first, last = rank * total // world, (rank + 1) * total // world
    mine: list[Chunk] = []
    before = 0
    for task in tasks:
        places = np.flatnonzero(wanted[task.position : task.position + len(task)])
        low, high = max(first - before, 0), min(last - before, len(places))
        if low < high:
            start, stop = int(places[low]), int(places[high - 1]) + 1
            mine.append(Chunk(task.images, task.masks, task.start + start, task.start + stop, task.position + start))
        before += len(places)
    return mine, last - first


def _shuffled(rows: Any, wanted: NDArray[np.bool_], buffer: int, random: np.random.Generator) -> Iterator[Row]:
    """Rows in an order that depends on `random` alone, holding `buffer` of them at a time."""
    held: list[Row] = []
    for batch in rows.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1):
        for place in np.flatnonzero(wanted[batch["position"]]):
            held.append({name: np.array(column[place]) for name, column in batch.items()})
            if len(held) > buffer:
                yield held.pop(int(random.integers(len(held))))
    while held:
        yield held.pop(int(random.integers(len(held))))

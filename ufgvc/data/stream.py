"""Decodes images and masks from storage, with Ray Data or threads, and streams them as training batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ufgvc.core.errors import UserError
from ufgvc.core.parquet import read_parquet_rows
from ufgvc.core.process import cpu_count, keep_freed_memory
from ufgvc.core.storage import Store
from ufgvc.data.dataset import Dataset, read_manifest
from ufgvc.data.images import BadImage, decode
from ufgvc.data.mask_png import decode_packed_mask
from ufgvc.data.resize import resize_square
from ufgvc.runtime.session import in_ray_session
from ufgvc.runtime.tasks import free_slots, map_in_threads, one_task_each

if TYPE_CHECKING:  # the tasks that decode do not need torch, whose import takes longer than many of them
    import torch
    from torch import Tensor

Ints = NDArray[np.int64]
Row = dict[str, Any]
Columns = dict[str, NDArray[Any]]
ROWS_PER_CHUNK = 64  # one row group of a shard
CHUNKS_AHEAD = 2  # that threads decode while one is in use


@dataclass(frozen=True)
class RawBatch:
    """A batch of B decoded images: rows of arrays on the host, or of tensors in the device's memory. Nothing is copied
    until it is asked for.

    held_images: (N, R, R, 3) uint8.  held_masks: {region: (N, R, ceil(R/8)) uint8}, bits as of `numpy.packbits`.
    rows: (B,) int64, the rows of these: an array for arrays, a tensor for tensors.  device: of the training.
    has_mask: {region: (B,) bool} and labels: (B,) int64, on the device.  positions: (B,) int64 on the CPU, row numbers
    in the split.
    """

    held_images: NDArray[np.uint8] | Tensor
    held_masks: Mapping[str, NDArray[np.uint8] | Tensor]
    rows: Ints | Tensor
    has_mask: Mapping[str, Tensor]
    labels: Tensor
    positions: Ints
    device: torch.device

    @property
    def images(self) -> Tensor:
        """The whole images (B, R, R, 3) uint8, copied to the device."""
        return self._gather(self.held_images)

    @property
    def packed_masks(self) -> dict[str, Tensor]:
        """{region: (B, R, ceil(R/8)) uint8}, copied to the device."""
        return {region: self._gather(packed) for region, packed in self.held_masks.items()}

    def _gather(self, held: NDArray[np.uint8] | Tensor) -> Tensor:
        if not isinstance(held, np.ndarray):
            return held[self.rows]
        import torch

        from ufgvc.data.transfer import to_device

        return to_device(torch.from_numpy(held[self.rows]), self.device)


class BatchSource(Protocol):
    """Where a rank's training batches come from; each image of an epoch occurs exactly once over all ranks."""

    def epoch(self, epoch: int) -> Iterator[RawBatch]:
        """This rank's batches of one epoch: the same number on every rank, none of them empty."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows [start, stop) of one shard.  position: row number of the first one in its split."""

    images: str
    masks: str | None
    start: int
    stop: int
    position: int

    def __len__(self) -> int:
        return self.stop - self.start


def list_chunks(dataset: Dataset, split: str, mask_kind: str | None, rows: int = ROWS_PER_CHUNK) -> list[Chunk]:
    """Chunks that cover every row of a split, in shard order, of at most `rows` each.

    mask_kind: None leaves the masks out.
    """
    mask_files: dict[str, str] = {}
    if mask_kind:
        folder = f"masks/{mask_kind}"
        mask_files = {shard.name: f"{folder}/{shard.file}" for shard in read_manifest(dataset, folder).shards}
    chunks: list[Chunk] = []
    position = 0
    for shard in dataset.shards:
        if shard.split != split:
            continue
        for start in range(0, shard.rows, rows):
            stop = min(start + rows, shard.rows)
            chunks.append(Chunk(f"images/{shard.file}", mask_files.get(shard.name), start, stop, position + start))
        position += shard.rows
    return chunks


def decode_chunk(store: Store, chunk: Chunk, side: int, map_rows: Callable[..., Any] = map) -> Columns:
    """Reads and decodes the rows of a chunk.  map_rows: `map`, or that of a pool of threads.

    Returns position (N,) int64 and image (N, side, side, 3) uint8; for each region of the masks also <region>_bits
    (N, side, ceil(side/8)) uint8, packed, and has_<region> (N,) bool. UserError for an image that cannot be decoded,
    RuntimeError if the masks belong to other images.
    """
    table = read_parquet_rows(store, chunk.images, chunk.start, chunk.stop, ["image_id", "image", "orientation"])
    decode_row = partial(_decode_row, side=side, where=f"{store.uri}/{chunk.images}")
    rows: Columns = {
        "position": np.arange(chunk.position, chunk.position + len(chunk), dtype=np.int64),
        "image": np.stack(list(map_rows(decode_row, table.to_pylist()))),
    }
    if not chunk.masks:
        return rows
    masks = read_parquet_rows(store, chunk.masks, chunk.start, chunk.stop)
    if masks["image_id"] != table["image_id"]:
        raise RuntimeError(f"{store.uri}/{chunk.masks} does not hold the masks of {chunk.images}")
    for region in masks.column_names:
        if region == "image_id":
            continue
        encoded = masks[region].to_pylist()
        rows[f"{region}_bits"] = np.stack(list(map_rows(partial(_pack_mask, side=side), encoded)))
        rows[f"has_{region}"] = np.array([mask is not None for mask in encoded])
    return rows


def _decode_row(row: Row, side: int, where: str) -> NDArray[np.uint8]:
    try:
        return resize_square(decode(row["image"], row["orientation"]), side)
    except BadImage as error:
        what, fix = f"the photograph {row['image_id']} {error.reason}", "run `ufgvc ingest` again"
        raise UserError(what, where=where, fix=fix) from None


def _pack_mask(mask: bytes | None, side: int) -> NDArray[np.uint8]:
    if mask is None:
        return np.zeros((side, (side + 7) // 8), np.uint8)
    return decode_packed_mask(mask, side)


def decode_chunks(store: Store, chunks: list[Chunk], side: int, reserved: float = 0.0, streams: int = 1) -> Any:
    """A Ray Dataset with the rows of `decode_chunk` for each chunk in turn, one task a chunk.

    reserved: CPU slots of the cluster that others hold.  streams: how many such datasets share the other slots.
    Memory use does not grow with the number of rows. Needs a Ray session.
    """

    def work(batch: dict[str, Any]) -> Iterator[Columns]:
        keep_freed_memory()
        for index in batch["chunk"]:
            yield decode_chunk(store, chunks[int(index)], side)

    slots = min(len(chunks), free_slots(reserved, streams))
    tasks = one_task_each([{"chunk": index} for index in range(len(chunks))])
    # Half a slot each, to fit next to others, but not two in a slot: Ray ends idle workers above the number of slots,
    # and a new one takes 2 to 3 seconds to import what it needs.
    return tasks.map_batches(work, batch_size=1, num_cpus=0.5, concurrency=slots)


def decode_in_threads(store: Store, chunks: Iterable[Chunk], side: int) -> Iterator[Columns]:
    """The rows of `decode_chunk` for each chunk in turn, by threads of this process, a few chunks ahead."""
    with ThreadPoolExecutor(cpu_count()) as pool:
        yield from map_in_threads(lambda chunk: decode_chunk(store, chunk, side, pool.map), chunks, CHUNKS_AHEAD)


def decode_ahead(
    store: Store, chunks: list[Chunk], side: int, reserved: float = 0.0, streams: int = 1
) -> Iterator[Columns]:
    """The rows of `decode_chunk` for each chunk in turn: by Ray Data in a Ray session, else by threads.

    reserved, streams: see `decode_chunks`.
    """
    if not in_ray_session():
        return decode_in_threads(store, chunks, side)
    decoded = decode_chunks(store, chunks, side, reserved, streams)
    return iter(decoded.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=1))


def num_batches(rows: int, batch_size: int) -> int:
    """Batches of an epoch; the last one may be smaller."""
    return -(-rows // batch_size)


@dataclass(frozen=True)
class StreamedSource:
    """Reads and decodes the training split again every epoch: chunks in a seeded order, then a seeded shuffle buffer.

    labels: (N,) of the whole split.  positions: rows of it that are trained on.  batch_size: over all ranks.
    buffer: rows in the shuffle buffer.  split: that holds the rows.  rank_cpus: CPU slots that each rank holds.
    RuntimeError if an epoch yields more or fewer rows than expected.
    """

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
    split: str = "train"
    rank_cpus: float = 0.0

    def epoch(self, epoch: int) -> Iterator[RawBatch]:
        """See `BatchSource`."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, epoch]))
        wanted = np.zeros(len(self.labels), bool)
        wanted[self.positions] = True
        chunks = list_chunks(self.dataset, self.split, self.mask_kind)
        mine, count = rank_chunks([chunks[i] for i in rng.permutation(len(chunks))], wanted, self.rank, self.world)
        steps = num_batches(len(self.positions), self.batch_size)
        sizes = [len(part) for part in np.array_split(np.arange(count), steps)]
        decoded = decode_ahead(self.dataset.store, mine, self.side, self.world * self.rank_cpus, self.world)
        rows = _shuffle_rows(decoded, wanted, min(self.buffer, count), rng)
        for size in sizes:
            taken = [row for _, row in zip(range(size), rows, strict=False)]
            if len(taken) != size:
                raise RuntimeError(f"rank {self.rank}: the stream of epoch {epoch} has fewer rows than the index")
            yield self._collate(taken)
        if next(rows, None) is not None:
            raise RuntimeError(f"rank {self.rank}: the stream of epoch {epoch} has more rows than the index")

    def _collate(self, rows: list[Row]) -> RawBatch:
        import torch

        from ufgvc.data.transfer import to_device

        positions = np.array([int(row["position"]) for row in rows], np.int64)
        stacked = {name: np.stack([row[name] for row in rows]) for name in rows[0] if name != "position"}
        regions = self.dataset.regions if self.mask_kind else ()
        flags = {region: torch.from_numpy(stacked[f"has_{region}"]) for region in regions}
        return RawBatch(
            held_images=stacked["image"],
            held_masks={region: stacked[f"{region}_bits"] for region in regions},
            rows=np.arange(len(rows)),
            has_mask={region: to_device(flag, self.device) for region, flag in flags.items()},
            labels=to_device(torch.from_numpy(self.labels[positions]), self.device),
            positions=positions,
            device=self.device,
        )


def rank_chunks(chunks: list[Chunk], wanted: NDArray[np.bool_], rank: int, world: int) -> tuple[list[Chunk], int]:
    """The chunks, cut at row bounds, with this rank's even share of the wanted rows; and the number of those rows."""
    total = int(wanted.sum())
    first, last = rank * total // world, (rank + 1) * total // world
    mine: list[Chunk] = []
    before = 0
    for chunk in chunks:
        rows = np.flatnonzero(wanted[chunk.position : chunk.position + len(chunk)])
        low, high = max(first - before, 0), min(last - before, len(rows))
        if low < high:
            start, stop = int(rows[low]), int(rows[high - 1]) + 1
            mine.append(
                Chunk(chunk.images, chunk.masks, chunk.start + start, chunk.start + stop, chunk.position + start)
            )
        before += len(rows)
    return mine, last - first


def _shuffle_rows(
    decoded: Iterable[Columns], wanted: NDArray[np.bool_], buffer: int, rng: np.random.Generator
) -> Iterator[Row]:
    """The wanted rows in an order that depends on `rng` alone, holding `buffer` of them at a time."""
    held: list[Row] = []
    for batch in decoded:
        for index in np.flatnonzero(wanted[batch["position"]]):
            held.append({name: np.array(column[index]) for name, column in batch.items()})
            if len(held) > buffer:
                yield held.pop(int(rng.integers(len(held))))
    while held:
        yield held.pop(int(rng.integers(len(held))))

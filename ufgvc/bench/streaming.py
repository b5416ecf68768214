"""Times decoding on all cores: Ray Data, as training streams, compared with a DataLoader that decodes the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from ufgvc.bench.dataset import BenchData
from ufgvc.bench.processes import TreeClock
from ufgvc.bench.reading import SIDE, Pixels
from ufgvc.bench.timing import Measurement, Spread, Timed, time_in_turn
from ufgvc.core.process import cpu_count
from ufgvc.data.images import decode
from ufgvc.data.mask_png import decode_packed_mask
from ufgvc.data.resize import resize_square
from ufgvc.data.stream import Chunk, decode_ahead, list_chunks
from ufgvc.runtime.session import uses_cluster

RAY = "Ray Data"
FEW, MANY = 64, 256  # photographs of an epoch, at least: their difference leaves out what each epoch costs once
BATCH = 64  # photographs of a batch and of a task, at most


class Photographs(Dataset[Mapping[str, Any]]):
    """The same decoding as a torch data set, for a DataLoader. Its worker processes read the files."""

    def __init__(self, source: Path, regions: tuple[str, ...], length: int) -> None:
        self.source, self.regions, self.length = source, regions, length
        self.names = sorted(path.name for path in (source / "images").iterdir() if path.stem.endswith("_train"))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, place: int) -> dict[str, Pixels]:
        name = self.names[place % len(self.names)]
        masks = {region: self.source / "masks" / region / f"{Path(name).stem}.png" for region in self.regions}
        image = resize_square(decode((self.source / "images" / name).read_bytes()), SIDE)
        return {"image": image} | {
            region: decode_packed_mask(path.read_bytes(), SIDE) for region, path in masks.items()
        }


def stack(samples: Sequence[Mapping[str, Pixels]]) -> dict[str, Pixels]:
    """Collates samples."""
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


def read_on_all_cores(data: BenchData, rounds: int, seed: int) -> list[Measurement]:
    """Photographs a second, in wall time, and a CPU second of all processes, with the CPU time that an epoch costs
    however few photographs it has. Inside of a Ray session; on a cluster, whose processes are not ours, wall time only.
    """
    chunks = list_chunks(data.dataset, "train", "exact", rows=min(BATCH, max(4, len(data.encoded) // 2)))
    held = sum(map(len, chunks))
    few, many = (held * -(-least // held) for least in (FEW, MANY))
    other = f"DataLoader, {cpu_count()} processes"
    walls: dict[str, list[float]] = {}
    calls: dict[str, Callable[[], object]] = {}
    for count in (few, many):
        loader = _loader(data, count, len(chunks[0]))
        calls[f"{other} {count}"] = partial(_timed, walls, f"{other} {count}", partial(_load, loader), count)
        work = partial(_stream, data, chunks * (count // held))
        calls[f"{RAY} {count}"] = partial(_timed, walls, f"{RAY} {count}", work, count)
    with TreeClock() as clock:
        used = time_in_turn(calls, rounds, clock=clock, budget=30, seed=seed)
    wall = Timed({name: tuple(walls[f"{name} {many}"][1:]) for name in (other, RAY)})  # the first ones warmed up
    rows = [wall.rate(other, "photographs/s", many), wall.rate(RAY, "photographs/s", many, baseline=other)]
    return rows if uses_cluster(None) else [*rows, *_cpu_rows(used, other, few, many)]


def _cpu_rows(used: Timed, other: str, few: int, many: int) -> list[Measurement]:
    """used: CPU seconds of epochs of `few` and `many` photographs, by "<name> <count>"."""
    slope: dict[str, tuple[float, ...]] = {}
    rows: list[Measurement] = []
    for name in (other, RAY):
        small, large = (np.asarray(used.seconds[f"{name} {count}"]) for count in (few, many))
        slope[name] = tuple(((large - small) / (many - few)).tolist())
        once = Spread.of((small - few * np.asarray(slope[name])).tolist())
        rows.append(Measurement(f"{name}: CPU time of an epoch besides its photographs", once, "s"))
    per_photograph = Timed(slope)
    unit = "photographs/CPU s"
    return [
        per_photograph.rate(other, unit, 1),
        per_photograph.rate(RAY, unit, 1, baseline=other),
        *rows,
    ]


def _timed(walls: dict[str, list[float]], name: str, read: Callable[[], int], count: int) -> None:
    started = time.perf_counter()
    seen = read()
    walls.setdefault(name, []).append(time.perf_counter() - started)
    if seen != count:
        raise RuntimeError(f"{name} gave {seen} of {count} rows")


def _loader(data: BenchData, count: int, batch: int) -> DataLoader[Mapping[str, Any]]:
    return DataLoader(
        Photographs(data.source, data.dataset.regions, count),
        batch_size=batch,
        num_workers=cpu_count(),
        persistent_workers=True,
        collate_fn=stack,
        multiprocessing_context="spawn",  # Ray's threads would not survive a fork
    )


def _load(loader: DataLoader[Mapping[str, Any]]) -> int:
    return sum(len(rows["image"]) for rows in loader)


def _stream(data: BenchData, chunks: list[Chunk]) -> int:
    return sum(len(rows["position"]) for rows in decode_ahead(data.dataset.store, chunks, SIDE))

"""Embeddings, a loader and ranks in threads for the tests of the probes."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ufgvc.core.storage import open_store
from ufgvc.data.cache import CachedSource, DecodedSplit
from ufgvc.data.dataset import Dataset, Shard
from ufgvc.training.ddp import Ranks
from ufgvc.training.embeddings import Embeddings
from ufgvc.training.loader import BatchLoader

CPU = torch.device("cpu")
ALONE = Ranks(0, 1, CPU)


def embeddings(count: int = 60, views: int = 2, width: int = 7, classes: int = 4, seed: int = 0) -> Embeddings:
    """Of so many images in so many views; each number has a scale of its own."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    rows = rng.normal(0, 1, (count, views, width)) + rng.normal(0, 0.6, (classes, width))[labels][:, None]
    rows = rows * rng.uniform(0.1, 30, width) + 5
    return Embeddings(rows.astype(np.float32), labels, np.arange(count))


def config_of(folder: Path, count: int, rows: int = 100) -> Any:
    """Of a training on a data set whose shards hold `rows` images each; its photographs are never read."""
    sizes = [min(rows, count - at) for at in range(0, count, rows)]
    parts = tuple(Shard(f"train-{k:05d}", f"{k}.parquet", "train", size) for k, size in enumerate(sizes))
    dataset = Dataset(open_store(folder), "leaves", ("a", "b", "c"), "fingerprint", parts, {"train": count})
    return SimpleNamespace(open_dataset=lambda: dataset, split="train", embeddings=None, cache_folder=str(folder))


def loader_of(source: Any, folder: Path) -> BatchLoader:
    """Of the images 0, 2 and 5 of six."""
    rows, nothing = np.array([0, 2, 5]), np.arange(0)
    recipe: Any = None
    rest = nothing, rows, rows % 3, [None] * 3, 0, None, nothing, nothing, CPU
    return BatchLoader(config_of(folder, 6), recipe, source, *rest)


def source_of(images: np.ndarray) -> CachedSource:
    """Of the images 0, 2 and 5 of six."""
    return CachedSource(DecodedSplit(images, {}, {}), np.arange(6) % 3, np.array([0, 2, 5]), 2, 0, 0, 1, CPU)


@dataclass
class Together:
    """Sums over threads, as torch.distributed sums over ranks."""

    count: int
    barrier: threading.Barrier = field(init=False)
    values: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.count)

    def rank(self, number: int) -> Any:
        outer = self

        class Rank:
            rank, world_size, device = number, outer.count, CPU

            def gather(self, value: Any) -> list[Any]:
                outer.values[number] = value
                outer.barrier.wait(60)
                gathered = [outer.values[each] for each in range(outer.count)]
                outer.barrier.wait(60)
                return gathered

            def sum(self, value: Tensor) -> Tensor:
                return value.copy_(torch.stack(self.gather(value.clone())).sum(0))

        return Rank()

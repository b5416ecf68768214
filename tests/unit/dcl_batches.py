"""Batches of noise for the tests of DCL."""

from __future__ import annotations

import torch
from torch import Tensor

from ufgvc.methods import Batch
from ufgvc.methods.layers.shuffle import Shuffle, num_shuffle_uniforms

SHUFFLES: tuple[Shuffle, ...] = ("jitter", "coded")


def random_uniforms(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def views_batch(count: int = 3, side: int = 56, shuffle: Shuffle = "jitter", grid: int = 7, seed: int = 0) -> Batch:
    images = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))
    images = images.contiguous(memory_format=torch.channels_last)
    masks = {"vein": images[:, :1].round()}
    has = {"vein": torch.arange(count) % 2 == 0}
    return Batch(
        images,
        torch.arange(count) % 5,
        masks,
        has,
        uniforms=random_uniforms(count, num_shuffle_uniforms(shuffle, grid), seed),
    )

"""Shuffling the patches of images, as in DCL (region confusion mechanism, Chen et al., CVPR 2019) and MaskCOV.

An order is (B, grid * grid) int64: order[b, i] is the index in the original image of the patch at index i after
shuffling, both in reading order. If the grid does not divide an image's sides, the patches cover its centre; the border
that is left over, fewer than `grid` pixels in each direction, stays unchanged, so that nothing is resized.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Shuffle = Literal["jitter", "coded"]


def num_shuffle_uniforms(shuffle: Shuffle, grid: int) -> int:
    """How many uniform numbers the order of one image needs."""
    return 2 * grid * grid if shuffle == "jitter" else (grid + 1) * (grid - 1)


def shuffle_order(shuffle: Shuffle, uniforms: Tensor, grid: int, reach: float) -> Tensor:
    """Random orders (B, grid * grid) from uniforms (B, num_shuffle_uniforms(...)) in [0, 1).

    reach: see `jitter_order`; unused for `coded`.
    """
    return jitter_order(uniforms, grid, reach) if shuffle == "jitter" else swap_order(uniforms, grid)


def jitter_order(uniforms: Tensor, grid: int, reach: float) -> Tensor:
    """The paper's order: each row is sorted by i + U(-reach, reach), then each column.

    A patch moves by less than 2 * reach patches in each direction.
    uniforms: (B, 2 * grid * grid), for the rows and then for the columns, both in reading order.  Returns (B, grid *
    grid).
    """
    rows, columns = ((2 * uniforms - 1) * reach).view(-1, 2, grid, grid).unbind(1)
    place = torch.arange(grid, device=uniforms.device)
    order = (place[:, None] * grid + place).expand(len(uniforms), grid, grid)
    # Columns are sorted after the rows have been permuted: with the original columns two patches could get one index.
    order = order.gather(2, (place + rows).argsort(dim=2, stable=True))
    order = order.gather(1, (place[:, None] + columns).argsort(dim=1, stable=True))
    return order.flatten(1)


def swap_order(uniforms: Tensor, grid: int) -> Tensor:
    """The released code's order: a list grows patch by patch, and its last two entries are swapped with probability
    0.5.

    Applied to each row, then to the rows as wholes. A patch moves back by at most 1, but may move forward to the end.
    uniforms: (B, (grid + 1) * (grid - 1)), row by row, then for the rows; below 0.5 swaps.  Returns (B, grid * grid).
    """
    swap = (uniforms < 0.5).view(-1, grid + 1, grid - 1)
    lines = torch.arange(grid, device=uniforms.device).repeat(len(uniforms), grid + 1, 1)
    for last in range(1, grid):
        pair = lines[..., last - 1 : last + 1]
        lines[..., last - 1 : last + 1] = torch.where(swap[..., last - 1 : last], pair.flip(-1), pair)
    within, rows = lines[:, :grid], lines[:, grid]
    order = torch.arange(grid, device=uniforms.device)[:, None] * grid + within
    return torch.take_along_dim(order, rows[:, :, None], dim=1).flatten(1)


def split_patches(images: Tensor, grid: int) -> Tensor:
    """The patches (B, grid * grid, C, H // grid, W // grid) of images (B, C, H, W), in reading order."""
    return _tiles(images, grid).flatten(1, 2)


def paste_patches(patches: Tensor, images: Tensor) -> Tensor:
    """Copies of images (B, C, H, W), in the same memory format, with patches of `split_patches` pasted over theirs."""
    grid = round(patches.shape[1] ** 0.5)
    pasted = images.clone()
    _tiles(pasted, grid).copy_(patches.unflatten(1, (grid, grid)))
    return pasted


def permute_patches(patches: Tensor, order: Tensor) -> Tensor:
    """Any values a patch, (B, n, ...), permuted by an order (B, n) on the same device."""
    return patches[torch.arange(len(order), device=order.device)[:, None], order]


def match_patches(patches: Tensor, shuffled: Tensor) -> Tensor:
    """The order (B, n) as DCL's released code estimates it: the first patch with the nearest sum of channel means.

    patches, shuffled: (B, n, C, h, w). Wrong for patches of equal brightness, as on a plain background.
    """
    # Rounded, so that equal patches tie on every device, in whatever order it sums.
    brightness, found = (
        each.mean(dim=(3, 4), dtype=torch.float64).sum(dim=2).round(decimals=9) for each in (patches, shuffled)
    )
    return (found[:, :, None] - brightness[:, None, :]).abs().argmin(dim=2)


def _tiles(images: Tensor, grid: int) -> Tensor:
    """A view (B, grid, grid, C, h, w) of the centre of images (B, C, H, W)."""
    height, width = images.shape[2] // grid, images.shape[3] // grid
    top, left = (images.shape[2] - height * grid) // 2, (images.shape[3] - width * grid) // 2
    middle = images[:, :, top : top + height * grid, left : left + width * grid]
    return middle.unflatten(3, (grid, width)).unflatten(2, (grid, height)).permute(0, 2, 4, 1, 3, 5)

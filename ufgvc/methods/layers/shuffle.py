"""Patches of images in another order: how DCL destroys an image (Chen et al., CVPR 2019).

An order is (B, grid * grid) int64: order[b, place] is the patch of the original image that lies at `place` afterwards, both
counted in reading order. Images whose sides the grid does not divide are cut in their middle: the frame that is left over,
fewer than `grid` pixels in each direction, stays where it is, so that nothing is resized.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Shuffle = Literal["jitter", "coded"]


def shuffle_chances(shuffle: Shuffle, grid: int) -> int:
    """How many uniform numbers an image's order takes."""
    return 2 * grid * grid if shuffle == "jitter" else (grid + 1) * (grid - 1)


def shuffle_order(shuffle: Shuffle, chance: Tensor, grid: int, reach: float) -> Tensor:
    """The orders (B, grid * grid) that uniform numbers in [0, 1), (B, shuffle_chances(...)), stand for; reach: of the jitter."""
    return jitter_order(chance, grid, reach) if shuffle == "jitter" else swap_order(chance, grid)


def jitter_order(chance: Tensor, grid: int, reach: float) -> Tensor:
    """As the paper has it: each row is sorted by i + U(-reach, reach), then each column; no patch moves by 2 * reach or more.

    chance: (B, 2 * grid * grid), for the rows and then for the columns, both in reading order.  Returns (B, grid * grid).
    """
    rows, columns = ((2 * chance - 1) * reach).view(-1, 2, grid, grid).unbind(1)
    place = torch.arange(grid, device=chance.device)
    order = (place[:, None] * grid + place).expand(len(chance), grid, grid)
    # The columns are those after the rows have moved: by the columns of the original, two patches could meet in one place.
    order = order.gather(2, (place + rows).argsort(dim=2, stable=True))
    order = order.gather(1, (place[:, None] + columns).argsort(dim=1, stable=True))
    return order.flatten(1)


def swap_order(chance: Tensor, grid: int) -> Tensor:
    """As the released code has it: a line grows patch by patch, and after each one its last two change places or not, evenly.

    So every row is mixed, and then the rows as wholes. A patch moves back by at most 1, but may be carried on to the end.
    chance: (B, (grid + 1) * (grid - 1)), row by row, then for the rows; below 0.5 changes places.  Returns (B, grid * grid).
    """
    swap = (chance < 0.5).view(-1, grid + 1, grid - 1)
    lines = torch.arange(grid, device=chance.device).repeat(len(chance), grid + 1, 1)
    for last in range(1, grid):
        pair = lines[..., last - 1 : last + 1]
        lines[..., last - 1 : last + 1] = torch.where(swap[..., last - 1 : last], pair.flip(-1), pair)
    within, rows = lines[:, :grid], lines[:, grid]
    order = torch.arange(grid, device=chance.device)[:, None] * grid + within
    return torch.take_along_dim(order, rows[:, :, None], dim=1).flatten(1)


def cut(images: Tensor, grid: int) -> Tensor:
    """The patches (B, grid * grid, C, H // grid, W // grid) of images (B, C, H, W), in reading order."""
    return _tiles(images, grid).flatten(1, 2)


def paste(patches: Tensor, images: Tensor) -> Tensor:
    """Copies of images (B, C, H, W), in the same memory format, with these patches of theirs (see cut) in the places of the old."""
    grid = round(patches.shape[1] ** 0.5)
    pasted = images.clone()
    _tiles(pasted, grid).copy_(patches.unflatten(1, (grid, grid)))
    return pasted


def rearrange(patches: Tensor, order: Tensor) -> Tensor:
    """Anything there is for each patch, (B, n, ...), in the order (B, n), which lies on the same device."""
    return patches[torch.arange(len(order), device=order.device)[:, None], order]


def match_patches(patches: Tensor, shuffled: Tensor) -> Tensor:
    """The order (B, n) as DCL's released code guesses it: the patch with the nearest sum of channel means, the first of equals.

    patches, shuffled: (B, n, C, h, w). Wrong where patches look alike, as on a plain background.
    """
    # Rounded, so that equal patches tie on every device, whichever way it sums them up.
    brightness, found = (
        some.mean(dim=(3, 4), dtype=torch.float64).sum(dim=2).round(decimals=9) for some in (patches, shuffled)
    )
    return (found[:, :, None] - brightness[:, None, :]).abs().argmin(dim=2)


def _tiles(images: Tensor, grid: int) -> Tensor:
    """A view (B, grid, grid, C, h, w) of the middle of images."""
    height, width = images.shape[2] // grid, images.shape[3] // grid
    top, left = (images.shape[2] - height * grid) // 2, (images.shape[3] - width * grid) // 2
    middle = images[:, :, top : top + height * grid, left : left + width * grid]
    return middle.unflatten(3, (grid, width)).unflatten(2, (grid, height)).permute(0, 2, 4, 1, 3, 5)

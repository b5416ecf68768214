"""Crops and flips decoded images and packed masks on the host, and touches no pixel outside of the crops.

`augment` does the same to whole images on any device, is slower, and judges this file in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Bytes = NDArray[np.uint8]
Crop = tuple[int, int, int, bool]  # row of the array, first row and first column of pixels, whether it is flipped


def crop_images(images: Bytes, crops: Sequence[Crop], side: int) -> Bytes:
    """Crops (B, side, side, 3) of `images` (N, R, R, 3) uint8."""
    out = np.empty((len(crops), side, side, 3), np.uint8)
    for place, (row, top, left, flip) in enumerate(crops):
        _copy(images[row, top : top + side, left : left + side], flip, out[place])
    return out


def crop_masks(packed: Bytes, crops: Sequence[Crop], side: int) -> Bytes:
    """Crops (B, side, side) of 0 and 1 of masks `packed` (N, R, ceil(R / 8)) uint8, bits as of `numpy.packbits`."""
    out = np.empty((len(crops), side, side), np.uint8)
    for place, (row, top, left, flip) in enumerate(crops):
        first, last = left // 8, -(-(left + side) // 8)
        bits = np.unpackbits(packed[row, top : top + side, first:last], axis=1)
        _copy(bits[:, left - 8 * first : left - 8 * first + side], flip, out[place])
    return out


def unpack(bits: Tensor, side: int) -> Tensor:
    """Packed bits (B, side, ceil(side / 8)) uint8, most significant first -> (B, side, side) uint8 of 0 and 1."""
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=bits.device)
    return ((bits.unsqueeze(-1) >> shifts) & 1).flatten(2)[..., :side]


def _copy(part: Bytes, flip: bool, out: Bytes) -> None:
    if flip:
        import cv2

        cv2.flip(part, 1, dst=out)  # numpy's copy of reversed pixels takes eight times as long
    else:
        out[:] = part


def pool_mask(mask: Tensor, size: tuple[int, int]) -> Tensor | None:
    """The mean of a mask (B, 1, H, W) uint8 of 0 and 1 over each cell, (B, 1, h, w) float32, exact to rounding.

    size: (h, w). None if the cells are not of equal size, or larger than 255 pixels, whose sums are computed in bytes.
    """
    (batch, _, height, width), (rows, columns) = mask.shape, size
    tall, wide = height // rows, width // columns
    if height != rows * tall or width != columns * wide or tall > 255:
        return None
    if mask.device.type != "cpu":
        counts = mask.view(batch, 1, rows, tall, columns, wide).sum(dim=(3, 5), dtype=torch.float32)
        return counts / (tall * wide)
    # numpy's sums of bytes take a third of torch's time.
    by_row = mask.numpy().reshape(batch, rows, tall, width).sum(axis=2, dtype=np.uint8)
    sums = by_row.reshape(batch, rows, columns, wide).sum(axis=3, dtype=np.int64)
    return torch.from_numpy((sums / (tall * wide)).astype(np.float32))[:, None]

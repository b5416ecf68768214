"""Maps in polar coordinates about the leaf's middle, and what of them stays the same when the leaf is turned, mirrored, moved or scaled."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

ANGLES = 64


def polar(maps: Tensor, leaf: Tensor, rings: int, reach: float) -> Tensor:
    """maps (B, C, H, W) -> (B, C, rings, ANGLES), read at the middles of rings about the centroid of leaf (B, 1, H, W).

    The first angle points up, the others follow clockwise.  reach: outer radius of the last ring, in radii of the circle that has the
    leaf's area.  Outside of the picture all maps are 0; an empty leaf lies in the middle and has one pixel.
    """
    height, width = maps.shape[2:]
    pixels = leaf.sum(dim=(1, 2, 3))
    rows = torch.arange(height, device=maps.device, dtype=maps.dtype) + 0.5
    columns = torch.arange(width, device=maps.device, dtype=maps.dtype) + 0.5
    empty, area = pixels == 0, pixels.clamp(min=1)
    middle_y = torch.where(empty, height / 2, (leaf.sum(dim=3).squeeze(1) * rows).sum(dim=1) / area)
    middle_x = torch.where(empty, width / 2, (leaf.sum(dim=2).squeeze(1) * columns).sum(dim=1) / area)
    radii = (
        (area / math.pi).sqrt()[:, None]
        * (torch.arange(rings, device=maps.device, dtype=maps.dtype) + 0.5)
        * (reach / rings)
    )
    angles = torch.arange(ANGLES, device=maps.device, dtype=maps.dtype) * (2 * math.pi / ANGLES)
    y = middle_y[:, None, None] - radii[:, :, None] * angles.cos()
    x = middle_x[:, None, None] + radii[:, :, None] * angles.sin()
    grid = torch.stack([2 * x / width - 1, 2 * y / height - 1], dim=3)
    return functional.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def spectrum(rings: Tensor, harmonics: int) -> Tensor:
    """Size of the first harmonics (the mean is the first) round each ring: (..., ANGLES) -> (..., harmonics), >= 0, in the map's unit.

    The generic Fourier descriptor of Zhang and Lu 2002 without its transform along the radius. As sums over cosines and sines, because not
    every runtime that a net is exported to has an FFT.
    """
    turns = torch.arange(ANGLES, device=rings.device, dtype=rings.dtype)[:, None] * torch.arange(
        harmonics, device=rings.device, dtype=rings.dtype
    )
    phase = turns * (2 * math.pi / ANGLES)
    return ((rings @ phase.cos()).square() + (rings @ phase.sin()).square()).sqrt() / ANGLES

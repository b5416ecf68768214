"""Features of a leaf that a botanist would measure: outline and veins in polar coordinates, and colour.

Outline and veins do not change with rotation, reflection, position and scale of the leaf.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from ufgvc.methods.layers.leaf_segmentation import mean_inside, ridges

Trait = Literal["outline", "veins", "colour"]
ANGLES = 64  # samples on a ring
HARMONICS = 12
EPS = 1e-3  # added to a harmonic's size before the square root, which would enlarge the rounding errors of zeros


def polar(maps: Tensor, leaf: Tensor, rings: int, max_radius: float) -> Tensor:
    """Resamples maps (B, C, H, W) in polar coordinates around the leaf's centroid: (B, C, rings, ANGLES).

    The first angle points up, the others follow clockwise.  leaf: (B, 1, H, W) in [0, 1].
    max_radius: outer radius of the last ring, in radii of the circle that has the leaf's area; samples are taken at the
    middle of each ring. Maps are 0 outside of the image. An empty leaf has its centroid in the middle and an area of
    one pixel.
    """
    height, width = maps.shape[2:]
    pixels = leaf.sum(dim=(1, 2, 3))
    rows = torch.arange(height, device=maps.device, dtype=maps.dtype) + 0.5
    columns = torch.arange(width, device=maps.device, dtype=maps.dtype) + 0.5
    empty, area = pixels == 0, pixels.clamp(min=1)
    centre_y = torch.where(empty, height / 2, (leaf.sum(dim=3).squeeze(1) * rows).sum(dim=1) / area)
    centre_x = torch.where(empty, width / 2, (leaf.sum(dim=2).squeeze(1) * columns).sum(dim=1) / area)
    middles = torch.arange(rings, device=maps.device, dtype=maps.dtype) + 0.5
    radii = (area / math.pi).sqrt()[:, None] * middles * (max_radius / rings)
    angles = torch.arange(ANGLES, device=maps.device, dtype=maps.dtype) * (2 * math.pi / ANGLES)
    y = centre_y[:, None, None] - radii[:, :, None] * angles.cos()
    x = centre_x[:, None, None] + radii[:, :, None] * angles.sin()
    grid = torch.stack([2 * x / width - 1, 2 * y / height - 1], dim=3)
    return functional.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def spectrum(rings: Tensor, harmonics: int) -> Tensor:
    """Magnitudes of the first harmonics along each ring: (..., ANGLES) -> (..., harmonics), >= 0; the first is the
    mean.

    The generic Fourier descriptor of Zhang and Lu 2002, without its transform along the radius. Computed with sums of
    cosines and sines, because not all runtimes that a net is exported to have an FFT.
    """
    steps = torch.arange(ANGLES, device=rings.device, dtype=rings.dtype)[:, None]
    phase = steps * torch.arange(harmonics, device=rings.device, dtype=rings.dtype) * (2 * math.pi / ANGLES)
    return ((rings @ phase.cos()).square() + (rings @ phase.sin()).square()).sqrt() / ANGLES


def outline(images: Tensor, leaf: Tensor, interior: Tensor) -> Tensor:
    """Share of leaf on 12 rings up to 2.2 radii: (B, 144), the square roots of each ring's harmonics."""
    rings = polar(leaf, leaf, rings=24, max_radius=2.2).unflatten(2, (12, 2)).mean(dim=3)
    return (spectrum(rings, HARMONICS).flatten(1) + EPS).sqrt()


def veins(images: Tensor, leaf: Tensor, interior: Tensor) -> Tensor:
    """Strength of bright lines on 5 rings up to 1.4 radii: (B, 60), the square roots of each ring's harmonics."""
    rings = polar(ridges(images, interior), leaf, rings=15, max_radius=1.4).unflatten(2, (5, 3)).mean(dim=3)
    return (spectrum(rings, HARMONICS).flatten(1) + EPS).sqrt()


def colour(images: Tensor, leaf: Tensor, interior: Tensor) -> Tensor:
    """Means over the leaf's interior of red / (R + G + B), green / (R + G + B) and brightness: (B, 3) in [0, 1]."""
    shares = images / images.sum(dim=1, keepdim=True).clamp(min=1e-6)
    values = torch.cat([shares[:, :2], images.mean(dim=1, keepdim=True)], dim=1)
    return mean_inside(values, interior).flatten(1)


# {trait: (dim, function of images (B, 3, H, W), leaf (B, 1, H, W) and the leaf without its rim -> (B, dim))}
TRAITS: dict[Trait, tuple[int, Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "outline": (12 * HARMONICS, outline),
    "veins": (5 * HARMONICS, veins),
    "colour": (3, colour),
}

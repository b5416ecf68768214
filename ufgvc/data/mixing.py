"""Augmentation beyond geometry: colours of an image, and rectangles of other images in it (CutMix)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ufgvc.data.transfer import to_device

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
COLOUR_UNIFORMS = 3  # random numbers of an image: brightness, contrast, saturation
CUTMIX_UNIFORMS = 5  # whether, which other image, share, and the rectangle's centre (2)
LARGEST_SHARE = 0.5  # of the image in a rectangle: its own label stays the likeliest
GREY = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue


def jitter_colours(images: Tensor, uniforms: Tensor, strength: float) -> Tensor:
    """Changes brightness, contrast and saturation by factors uniform in [1 - strength, 1 + strength], in this order.

    images: (B, 3, H, W) in [0, 1].  uniforms: (B, COLOUR_UNIFORMS) on the CPU.  Each factor as in torchvision's
    functional, which takes only one for all images. The hue stays: it tells cultivars apart.
    """
    factors = to_device((1 + (2 * uniforms - 1) * strength).float(), images.device)
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
    images = (images * brightness).clamp(0, 1)
    images = (images * contrast + to_grey(images).mean(dim=(2, 3), keepdim=True) * (1 - contrast)).clamp(0, 1)
    return (images * saturation + to_grey(images) * (1 - saturation)).clamp(0, 1)


def to_grey(images: Tensor) -> Tensor:
    """Luminance (B, 1, H, W) of images (B, 3, H, W)."""
    red, green, blue = images.split(1, dim=1)
    return GREY[0] * red + GREY[1] * green + GREY[2] * blue


def choose_partners(uniforms: Floats, probability: float, count: int) -> tuple[Ints, Ints]:
    """Which images of a batch get a rectangle of another one: their places (M,), and the others (M,) in [0, count).

    uniforms: (B, CUTMIX_UNIFORMS), of the image itself, so that neither depends on batch or rank.
    """
    places = np.flatnonzero(uniforms[:, 0] < probability)
    return places, (uniforms[places, 1] * count).astype(np.int64)


def rectangles(uniforms: Floats, side: int) -> tuple[Ints, Floats]:
    """Edges (M, 4) in pixels of rectangles (top, bottom, left, right; ends excluded), and their shares (M,).

    As in CutMix (Yun et al., ICCV 2019), each has the image's form and a centre anywhere in it, and is cut off at the
    image's edge. Its share before that is uniform in [0, LARGEST_SHARE): with one uniform in [0, 1], as published,
    the two images would change roles above one half.
    uniforms: (M, CUTMIX_UNIFORMS).  side: of the image.
    """
    half = np.sqrt(uniforms[:, 2:3] * LARGEST_SHARE) * side / 2
    middle = uniforms[:, 3:5] * side
    start, stop = (np.rint(edge).clip(0, side).astype(np.int64) for edge in (middle - half, middle + half))
    edges = np.stack([start, stop], axis=2).reshape(-1, 4)
    return edges, (stop - start).prod(axis=1) / (side * side)


def paste_rectangles(images: Tensor, others: Tensor, edges: Tensor) -> Tensor:
    """Images (M, C, H, W) with the rectangles of `others` in them.  edges: (M, 4) of `rectangles`, on the device."""
    rows, columns = (torch.arange(side, device=images.device) for side in images.shape[2:])
    in_rows = (rows >= edges[:, 0:1]) & (rows < edges[:, 1:2])
    in_columns = (columns >= edges[:, 2:3]) & (columns < edges[:, 3:4])
    return torch.where((in_rows[:, :, None] & in_columns[:, None, :])[:, None], others, images)


def mix(
    images: Tensor,
    masks: Mapping[str, Tensor],
    others: tuple[Tensor, Mapping[str, Tensor]],
    places: Tensor,
    edges: Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The batch with rectangles of other images, and of their masks, in the images at `places`.

    images: (B, 3, H, W).  masks: {region: (B, 1, H, W)}.  others: images (M, 3, H, W) and masks.  places: (M,).
    edges: (M, 4). Both are on the device.
    """
    mixed = images.index_copy(0, places, paste_rectangles(images[places], others[0], edges))
    return mixed.contiguous(memory_format=torch.channels_last), {
        region: mask.index_copy(0, places, paste_rectangles(mask[places], others[1][region], edges))
        for region, mask in masks.items()
    }


def soften_labels(labels: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """Class probabilities (B, K) float32 of labels (B,): 1 - smoothing at the label, and smoothing / K at each class.

    It is torch's `cross_entropy(..., label_smoothing=smoothing)`.
    """
    # Not torch's one_hot, which checks the labels' range and so waits for the GPU.
    targets = torch.full((len(labels), num_classes), smoothing / num_classes, device=labels.device)
    return targets.scatter_add(1, labels[:, None], torch.full_like(targets[:, :1], 1 - smoothing))

"""Segmentation of leaf and veins in images with a plain background: batched, without boxes, masks or parameters.

`regions/masks.py` segments single photographs at full size; it is slower and keeps the largest connected component
only.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

MIN_CONTRAST = 16 / 255  # images whose largest difference from the background is smaller count as all leaf
ITERATIONS = 12  # of the threshold; it converges after half of them
STEP_WIDTH = 0.1  # width of `soft_step`, as a share of the largest value
RIM = 1 / 40  # width of the leaf's rim, where leaf and background mix, as a share of the image's longer side
VEIN_STD = 1 / 224  # standard deviation of the ridge filter, as a share of the longer side; at least one pixel


def find_leaf(images: Tensor) -> Tensor:
    """Soft mask of the leaf: images (B, 3, H, W) in [0, 1] -> (B, 1, H, W) in [0, 1], 1 on the leaf.

    The background colour is the median of the image's border pixels; pixels that differ from it by more than
    `isodata_threshold` are leaf. An image without contrast is all leaf.
    """
    frame = torch.cat([images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1]], dim=2)
    background = frame.sort(dim=2).values[:, :, frame.shape[2] // 2]
    difference = (images - background[:, :, None, None]).abs().amax(dim=1, keepdim=True)
    plain = difference.amax(dim=(1, 2, 3), keepdim=True) < MIN_CONTRAST
    return torch.where(plain, 1.0, soft_step(difference, isodata_threshold(difference)))


def soft_step(values: Tensor, threshold: Tensor) -> Tensor:
    """A step function with a linear ramp: values (B, 1, H, W), threshold (B, 1, 1, 1) -> (B, 1, H, W) in [0, 1].

    It rises over a tenth of the largest value. A hard step would depend on the rounding of pixels close to the
    threshold, which differs between devices.
    """
    width = STEP_WIDTH * values.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)
    return ((values - threshold) / width + 0.5).clamp(0, 1)


def isodata_threshold(values: Tensor) -> Tensor:
    """Threshold (B, 1, 1, 1) halfway between the mean of the values (B, 1, H, W) above it and the mean of those below.

    The iteration of Ridler and Calvard 1978, with `soft_step` in place of their hard assignment.
    """
    threshold = values.mean(dim=(1, 2, 3), keepdim=True)
    for _ in range(ITERATIONS):
        high = soft_step(values, threshold)
        threshold = (mean_inside(values, high) + mean_inside(values, 1 - high)) / 2
    return threshold


def mean_inside(maps: Tensor, inside: Tensor) -> Tensor:
    """Mean (B, C, 1, 1) of maps (B, C, H, W) with weights inside (B, 1, H, W) in [0, 1]; 0 if all weights are 0."""
    return (maps * inside).sum(dim=(2, 3), keepdim=True) / inside.sum(dim=(2, 3), keepdim=True).clamp(min=1e-3)


def erode_leaf(leaf: Tensor) -> Tensor:
    """The leaf (B, 1, H, W) without its rim; a leaf that would vanish is returned unchanged."""
    margin = max(1, round(RIM * max(leaf.shape[2:])))
    eroded = 1 - functional.max_pool2d(1 - leaf, 2 * margin + 1, stride=1, padding=margin)
    return torch.where(eroded.amax(dim=(1, 2, 3), keepdim=True) > 0, eroded, leaf)


def ridges(images: Tensor, inside: Tensor) -> Tensor:
    """Strength of bright lines: images (B, 3, H, W) -> (B, 1, H, W) >= 0 with mean 1 over `inside` (B, 1, H, W), 0
    outside.

    The strength is the negative smaller eigenvalue of the Hessian of the smoothed brightness, where it is positive.
    """
    from torchvision.transforms.functional import gaussian_blur

    std = max(1.0, VEIN_STD * max(images.shape[2:]))
    light = gaussian_blur(images.mean(dim=1, keepdim=True), [2 * math.ceil(3 * std) + 1] * 2, [std] * 2)
    padded = functional.pad(light, (1, 1, 1, 1), mode="replicate")
    xx = padded[:, :, 1:-1, 2:] + padded[:, :, 1:-1, :-2] - 2 * light
    yy = padded[:, :, 2:, 1:-1] + padded[:, :, :-2, 1:-1] - 2 * light
    xy = (padded[:, :, 2:, 2:] + padded[:, :, :-2, :-2] - padded[:, :, 2:, :-2] - padded[:, :, :-2, 2:]) / 4
    smaller = (xx + yy) / 2 - (((xx - yy) / 2).square() + xy.square()).sqrt()
    strength = (-smaller).clamp(min=0) * inside
    return strength / mean_inside(strength, inside).clamp(min=1e-6)

"""Where the leaf and its veins are in photographs on a plain background: batched, without boxes, masks or anything learnt.

`regions/masks.py` asks the same of one photograph at its full size, takes its time for it and keeps the largest piece only.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.functional import gaussian_blur

NOISE = 16 / 255  # a photograph whose largest difference from its frame is smaller shows nothing
ROUNDS = 12  # of the threshold; it stands still after half of them
DOUBT = 0.1  # width of the step from background to leaf, as a share of the largest difference from the frame
RIM = 1 / 40  # width of the leaf's rim, where leaf and background mix, as a share of the picture's longest side
VEIN = 1 / 224  # standard deviation of the ridge filter, likewise; one pixel at least


def find_leaf(images: Tensor) -> Tensor:
    """images (B, 3, H, W) float in [0, 1] -> (B, 1, H, W) in [0, 1]: 1 on the leaf, 0 elsewhere, in between only where it is doubtful.

    The background is the median colour of the picture's frame; what differs from it by more than `halfway` is leaf. Where nothing stands
    out, everything is leaf.
    """
    frame = torch.cat([images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1]], dim=2)
    background = frame.sort(dim=2).values[:, :, frame.shape[2] // 2]
    difference = (images - background[:, :, None, None]).abs().amax(dim=1, keepdim=True)
    plain = difference.amax(dim=(1, 2, 3), keepdim=True) < NOISE
    return torch.where(plain, 1.0, soft_step(difference, isodata_threshold(difference)))


def soft_step(values: Tensor, threshold: Tensor) -> Tensor:
    """How far values (B, 1, H, W) are above a threshold (B, 1, 1, 1): from 0 to 1 over a tenth of the largest value.

    A step would turn the rounding of a pixel on the threshold into a piece of leaf, another one on every device.
    """
    width = DOUBT * values.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)
    return ((values - threshold) / width + 0.5).clamp(0, 1)


def isodata_threshold(values: Tensor) -> Tensor:
    """The threshold (B, 1, 1, 1) that lies halfway between the means of the values (B, 1, H, W) `above` it and of the others.

    After Ridler and Calvard 1978, who count each value on one side only.
    """
    threshold = values.mean(dim=(1, 2, 3), keepdim=True)
    for _ in range(ROUNDS):
        high = soft_step(values, threshold)
        threshold = (mean_inside(values, high) + mean_inside(values, 1 - high)) / 2
    return threshold


def mean_inside(maps: Tensor, inside: Tensor) -> Tensor:
    """Mean of maps (B, C, H, W) with the weights inside (B, 1, H, W) in [0, 1]: (B, C, 1, 1); zeros where all are 0."""
    return (maps * inside).sum(dim=(2, 3), keepdim=True) / inside.sum(dim=(2, 3), keepdim=True).clamp(min=1e-3)


def erode_leaf(leaf: Tensor) -> Tensor:
    """The leaf (B, 1, H, W) without its rim; a leaf that is all rim stays as it is."""
    margin = max(1, round(RIM * max(leaf.shape[2:])))
    inner = 1 - functional.max_pool2d(1 - leaf, 2 * margin + 1, stride=1, padding=margin)
    return torch.where(inner.amax(dim=(1, 2, 3), keepdim=True) > 0, inner, leaf)


def ridges(images: Tensor, inside: Tensor) -> Tensor:
    """How much each pixel of images (B, 3, H, W) lies on a bright line: (B, 1, H, W) >= 0, mean 1 over inside (B, 1, H, W), 0 outside.

    The strength is the curvature across the line, the smaller eigenvalue of the Hessian of the smoothed brightness, sign turned.
    """
    spread = max(1.0, VEIN * max(images.shape[2:]))
    light = gaussian_blur(images.mean(dim=1, keepdim=True), [2 * math.ceil(3 * spread) + 1] * 2, [spread] * 2)
    around = functional.pad(light, (1, 1, 1, 1), mode="replicate")
    across = around[:, :, 1:-1, 2:] + around[:, :, 1:-1, :-2] - 2 * light
    down = around[:, :, 2:, 1:-1] + around[:, :, :-2, 1:-1] - 2 * light
    mixed = (around[:, :, 2:, 2:] + around[:, :, :-2, :-2] - around[:, :, 2:, :-2] - around[:, :, :-2, 2:]) / 4
    smaller = (across + down) / 2 - (((across - down) / 2).square() + mixed.square()).sqrt()
    strength = (-smaller).clamp(min=0) * inside
    return strength / mean_inside(strength, inside).clamp(min=1e-6)

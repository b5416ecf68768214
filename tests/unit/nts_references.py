"""NTS-Net's anchors, choice and cutting of parts in slow loops, written from the paper; and a small net."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from ufgvc.methods import Method, build

CLASSES, SIDE = 5, 64


def tiny(seed: int = 0, **options: object) -> Method:
    """NTS-Net on a ResNet-18."""
    torch.manual_seed(seed)
    return build("nts_net", CLASSES, backbone="resnet18", **options)


def tiny_images(count: int = 3, side: int = SIDE) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(4))


def reference_anchors(map_side: int, side: int) -> list[tuple[float, float, float, float]]:
    """Centre y, centre x, height, width; level by level, scale by scale, ratio by ratio, row by row."""
    found = []
    cells, stride, unit = map_side, side / map_side, side / 448
    for size, powers in ((48, (1, 2)), (96, (1, 2)), (192, (0, 1, 2))):
        for power in powers:
            for ratio in (0.667, 1.0, 1.5):
                height = size * unit * 2 ** (power / 3) / ratio**0.5
                width = size * unit * 2 ** (power / 3) * ratio**0.5
                for row in range(cells):
                    for column in range(cells):
                        found.append((stride / 2 + row * stride, stride / 2 + column * stride, height, width))
        cells, stride = math.ceil(cells / 2), stride * 2
    return found


def reference_overlap(one: list[int], other: list[int]) -> float:
    height = min(one[2], other[2]) - max(one[0], other[0])
    width = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(height, 0) * max(width, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)


def reference_choice(scores: list[float], boxes: list[list[int]], count: int, limit: float) -> list[int]:
    """Greedy suppression of one image, then the best of what is left over."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    kept: list[int] = []
    for index in order:
        if len(kept) < count and all(reference_overlap(boxes[index], boxes[earlier]) < limit for earlier in kept):
            kept.append(index)
    return kept + [index for index in order if index not in kept][: count - len(kept)]


def reference_cut(image: Tensor, box: list[int], side: int) -> Tensor:
    """Pad, slice, resize one box of one image (3, H, W)."""
    pad = image.shape[1]
    padded = functional.pad(image, (pad, pad, pad, pad))
    top, left, bottom, right = (corner + pad for corner in box)
    return functional.interpolate(
        padded[None, :, top:bottom, left:right], size=(side, side), mode="bilinear", align_corners=True
    )[0]

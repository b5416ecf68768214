"""Anchors, non-maximum suppression and crops of NTS-Net (Yang et al., ECCV 2018), as in its released code.

Boxes are (top, left, bottom, right) in whole pixels, bottom and right exclusive, and may exceed the image.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

# For each level: side in pixels of its anchors in an image of 448 px, and its scale factors.
LEVELS = (
    (48.0, (2 ** (1 / 3), 2 ** (2 / 3))),
    (96.0, (2 ** (1 / 3), 2 ** (2 / 3))),
    (192.0, (1.0, 2 ** (1 / 3), 2 ** (2 / 3))),
)
RATIOS = (0.667, 1.0, 1.5)  # width / height
PUBLISHED_SIDE = 448
ANCHORS_PER_CELL = tuple(len(scales) * len(RATIOS) for _, scales in LEVELS)


def level_sides(map_side: int) -> tuple[int, ...]:
    """Cells along a side of each level's map; each level has half of the previous one, rounded up as by stride 2."""
    sides = [map_side]
    while len(sides) < len(LEVELS):
        sides.append((sides[-1] + 1) // 2)
    return tuple(sides)


def make_anchors(map_side: int, side: int) -> Tensor:
    """Anchors of a square image, (N, 4) float64: centre y, centre x, height and width in pixels.

    map_side: cells along a side of the backbone's map.  side: of the image, in pixels.
    Ordered by level, scale, ratio, then cell row by row, like flattened score maps (B, C, h, w).
    """
    levels = []
    for level, (cells, (size, scales)) in enumerate(zip(level_sides(map_side), LEVELS, strict=True)):
        stride = side / map_side * 2**level
        middle = (torch.arange(cells, dtype=torch.float64) + 0.5) * stride
        centres = torch.cartesian_prod(middle, middle)
        base = size * side / PUBLISHED_SIDE
        pairs = [
            (base * scale / math.sqrt(ratio), base * scale * math.sqrt(ratio)) for scale in scales for ratio in RATIOS
        ]
        shapes = torch.tensor(pairs, dtype=torch.float64)
        levels.append(torch.cat([centres.repeat(len(shapes), 1), shapes.repeat_interleave(len(centres), dim=0)], dim=1))
    return torch.cat(levels)


def to_boxes(anchors: Tensor) -> Tensor:
    """Anchors (N, 4) as boxes (N, 4) int64, corners rounded down.

    The released code truncates after adding its padding, when all corners are positive; the result is the same.
    """
    centres, halves = anchors[:, :2], anchors[:, 2:] / 2
    return torch.cat([centres - halves, centres + halves], dim=1).floor().long()


def select_proposals(scores: Tensor, boxes: Tensor, count: int, iou_threshold: float) -> Tensor:
    """Indices (B, count) int64 of the boxes that greedy non-maximum suppression keeps in each image, best first.

    scores: (B, N).  boxes: (N, 4) int64, the same for all images, N >= count.  iou_threshold: a box with this IoU or
    more with a better kept box is suppressed.  If fewer than `count` are kept, the best suppressed boxes follow, unlike
    `torchvision.ops.nms`, and all images are processed at once.  Of equal scores the first box is better.
    """
    from torchvision.ops import box_iou

    total = len(boxes)
    # Works on ranks, not scores: adding N for suppressed and 2 N for taken boxes keeps the order within each group
    # exactly.
    rank = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    suppressed = torch.zeros_like(rank, dtype=torch.bool)
    taken = torch.zeros_like(suppressed)
    chosen = []
    for _ in range(count):
        best = (rank + total * suppressed + 2 * total * taken).argmin(dim=1)
        chosen.append(best)
        suppressed = suppressed | (box_iou(boxes[best], boxes) >= iou_threshold)
        taken = taken.scatter(1, best[:, None], True)
    return torch.stack(chosen, dim=1)


def crop_and_resize(images: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Crops the boxes of each image and resizes them to squares: (B * M, 3, side, side), image by image, channels_last.

    images: (B, 3, H, W), zero-padded outside.  boxes: (B, M, 4) int64.  side: in pixels.
    Equal to slicing the padded image and `interpolate(mode="bilinear", align_corners=True)`, for all boxes at once.
    """
    height, width = images.shape[2:]
    steps = torch.linspace(0, 1, side, dtype=images.dtype, device=images.device)
    corners = boxes.to(images.dtype)[..., None]
    rows = corners[:, :, 0] + (corners[:, :, 2] - 1 - corners[:, :, 0]) * steps
    columns = corners[:, :, 1] + (corners[:, :, 3] - 1 - corners[:, :, 1]) * steps
    rows, columns = rows * (2 / (height - 1)) - 1, columns * (2 / (width - 1)) - 1
    shape = (*rows.shape, side)
    grid = torch.stack([columns[:, :, None, :].expand(shape), rows[:, :, :, None].expand(shape)], dim=-1)
    # One grid holds all boxes of an image, so that the image is not copied for each of them.
    crops = functional.grid_sample(
        images, grid.flatten(1, 2), mode="bilinear", padding_mode="zeros", align_corners=True
    )
    return crops.permute(0, 2, 3, 1).contiguous().view(-1, side, side, crops.shape[1]).permute(0, 3, 1, 2)

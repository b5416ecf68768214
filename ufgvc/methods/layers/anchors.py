"""Boxes that a navigator scores, the choice of a few that hardly overlap, and what an image shows in them (NTS-Net, Yang et al. 2018).

Boxes are (top, left, bottom, right) in whole pixels, bottom and right excluded, and may reach over the image's edge.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

# Of each level: the side in pixels of its anchors in an image of 448 px, and the factors that vary it.
LEVELS = (
    (48.0, (2 ** (1 / 3), 2 ** (2 / 3))),
    (96.0, (2 ** (1 / 3), 2 ** (2 / 3))),
    (192.0, (1.0, 2 ** (1 / 3), 2 ** (2 / 3))),
)
RATIOS = (0.667, 1.0, 1.5)  # width / height
PUBLISHED_SIDE = 448
SHAPES = tuple(len(scales) * len(RATIOS) for _, scales in LEVELS)


def level_sides(map_side: int) -> tuple[int, ...]:
    """Cells along a side of each level's map: each level halves the one before, rounded up as by a convolution of stride 2."""
    sides = [map_side]
    while len(sides) < len(LEVELS):
        sides.append((sides[-1] + 1) // 2)
    return tuple(sides)


def make_anchors(map_side: int, side: int) -> Tensor:
    """(N, 4) float64: centre y, centre x, height and width in pixels of every anchor of a square image.

    map_side: cells along a side of the backbone's map.  side: of the image, in pixels.
    Ordered by level, scale, ratio, then cell row by row: as score maps are when flattened with their channels first.
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
    """Anchors (N, 4) as boxes (N, 4) int64, their corners rounded down.

    The released code cuts off the fractions after it has added the padding, when all are positive; this is the same.
    """
    centres, halves = anchors[:, :2], anchors[:, 2:] / 2
    return torch.cat([centres - halves, centres + halves], dim=1).floor().long()


def overlaps(one: Tensor, boxes: Tensor) -> Tensor:
    """Intersection over union (B, N) float32 of boxes one (B, 4) with boxes (N, 4), both int64 and not empty."""
    low = torch.maximum(one[:, None, :2], boxes[:, :2])
    high = torch.minimum(one[:, None, 2:], boxes[:, 2:])
    shared = (high - low).clamp(min=0).prod(dim=2)
    union = _area(one)[:, None] + _area(boxes) - shared
    return shared / union


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)


def choose(scores: Tensor, boxes: Tensor, count: int, limit: float) -> Tensor:
    """(B, count) int64: the boxes that greedy suppression keeps in each image, best first.

    scores: (B, N).  boxes: (N, 4) int64, the same for all images, N >= count.  limit: a box that overlaps a better kept one
    by this share of their union, or more, is suppressed.  Where fewer than `count` are kept, the best of the suppressed ones follow.
    Of equal scores the first box is the better.
    """
    many = len(boxes)
    # Places in a queue, not scores: sending the suppressed and then the taken to its end keeps both in their order, exactly.
    place = scores.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    suppressed = torch.zeros_like(place, dtype=torch.bool)
    taken = torch.zeros_like(suppressed)
    chosen = []
    for _ in range(count):
        best = (place + many * suppressed + 2 * many * taken).argmin(dim=1)
        chosen.append(best)
        suppressed = suppressed | (overlaps(boxes[best], boxes) >= limit)
        taken = taken.scatter(1, best[:, None], True)
    return torch.stack(chosen, dim=1)


def cut_out(images: Tensor, boxes: Tensor, side: int) -> Tensor:
    """What the images show in their boxes, each resized to a square: (B * M, 3, side, side), image by image, channels_last.

    images: (B, 3, H, W); beyond their edges all is zero.  boxes: (B, M, 4) int64.  side: in pixels.
    Bilinear, with the box's outermost pixels on the square's outermost ones: slicing the padded image and
    `interpolate(align_corners=True)`, for all boxes at once.
    """
    height, width = images.shape[2:]
    steps = torch.linspace(0, 1, side, dtype=images.dtype, device=images.device)
    corners = boxes.to(images.dtype)[..., None]
    rows = corners[:, :, 0] + (corners[:, :, 2] - 1 - corners[:, :, 0]) * steps
    columns = corners[:, :, 1] + (corners[:, :, 3] - 1 - corners[:, :, 1]) * steps
    rows, columns = rows * (2 / (height - 1)) - 1, columns * (2 / (width - 1)) - 1
    shape = (*rows.shape, side)
    grid = torch.stack([columns[:, :, None, :].expand(shape), rows[:, :, :, None].expand(shape)], dim=-1)
    # An image's boxes below each other in one grid: nothing copies the image for each of them.
    cut = functional.grid_sample(images, grid.flatten(1, 2), mode="bilinear", padding_mode="zeros", align_corners=True)
    return cut.permute(0, 2, 3, 1).contiguous().view(-1, side, side, cut.shape[1]).permute(0, 3, 1, 2)

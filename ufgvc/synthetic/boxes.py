"""Bounding boxes as an annotator would draw them, three a leaf, with the statistics of the released label files."""

from __future__ import annotations

import numpy as np

Box = tuple[int, float, float, float, float]


def make_boxes(
    outline: np.ndarray, primaries: list[np.ndarray], palmate: bool, upright: bool, size: int, rng: np.random.Generator
) -> list[Box]:
    """[(class id, cx, cy, w, h)] in [0, 1], in random order.

    outline: (N, 2) pixels of the posed leaf.  primaries: (M, 2) pixels of the primary veins, the midrib first.
    upright: of a pinnate leaf, whether its tip points up instead of right.  size: side of the image in pixels.
    Palmate leaves: the midrib and the two side lobes, all of class 0. Pinnate: class 0 the midrib, class 1 the halves.
    """
    outline, primaries = outline / size, [path / size for path in primaries]
    drawn = _palmate(primaries, rng) if palmate else _pinnate(outline, primaries[0], upright, rng)
    boxes = []
    for kind, x0, y0, x1, y1 in drawn:
        x0, y0, x1, y1 = np.clip([x0, y0, x1, y1], 0.002, 0.998)
        boxes.append((kind, (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0))
    return [boxes[i] for i in rng.permutation(len(boxes))]


def _palmate(primaries: list[np.ndarray], rng: np.random.Generator) -> list[Box]:
    rib, left, right = primaries[:3]
    base = rib[0]
    j = 0.010 * rng.standard_normal((3, 4))
    floor = base[1] + 0.012 + 0.014 * rng.standard_normal(3)
    broad = 0.057 + 0.018 * rng.standard_normal(2)
    apart = 0.061 + 0.02 * rng.standard_normal(2)
    return [
        (
            0,
            rib[:, 0].min() - broad[0],
            rib[:, 1].min() - 0.012 + j[0, 1],
            rib[:, 0].max() + broad[1],
            floor[0] + 0.004,
        ),
        (
            0,
            left[:, 0].min() - 0.012 + j[1, 0],
            left[:, 1].min() - 0.014 + j[1, 1],
            base[0] - apart[0],
            floor[1] - 0.008,
        ),
        (
            0,
            base[0] + apart[1],
            right[:, 1].min() - 0.014 + j[2, 1],
            right[:, 0].max() + 0.012 + j[2, 2],
            floor[2] - 0.008,
        ),
    ]


def _pinnate(outline: np.ndarray, rib: np.ndarray, upright: bool, rng: np.random.Generator) -> list[Box]:
    if upright:  # rotate by 90 degrees: base to the left, tip to the right
        outline, rib = (np.stack([1 - p[:, 1], p[:, 0]], 1) for p in (outline, rib))
    j = 0.008 * rng.standard_normal((3, 4))
    stalk = (0.030 if upright else 0.080) + 0.02 * rng.standard_normal()
    inner = 0.009 + np.abs(0.004 * rng.standard_normal(4))
    drawn = [
        (0, rib[0, 0] - stalk, rib[:, 1].min() - inner[0], rib[-1, 0] + 0.012 + j[0, 2], rib[:, 1].max() + inner[1])
    ]
    middle = float(np.median(rib[:, 1]))
    for number, side in enumerate((outline[outline[:, 1] < middle], outline[outline[:, 1] > middle])):
        x0 = outline[:, 0].min() + (0.008 if upright else 0.030) + 0.02 * rng.standard_normal()
        x1 = outline[:, 0].max() - (0.010 if upright else 0.035) + 0.02 * rng.standard_normal()
        if number == 0:
            drawn.append((1, x0, side[:, 1].min() + j[1, 1], x1, middle - inner[2] - 0.014))
        else:
            drawn.append((1, x0, middle + inner[3] + 0.014, x1, side[:, 1].max() + j[2, 3]))
    if not upright:
        return drawn
    return [(kind, y0, 1 - x1, y1, 1 - x0) for kind, x0, y0, x1, y1 in drawn]

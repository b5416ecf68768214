"""Arithmetic on boxes: overlap, suppression, average precision. numpy only; boxes are (N, 4) x0, y0, x1, y1 in pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ufgvc.core.types import Box

Array = NDArray[np.floating]


def iou(first: Array, second: Array) -> Array:
    """Intersection over union of every pair: (N, 4), (M, 4) -> (N, M) in [0, 1] (Eq. 1 of the paper)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = [np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    share: Array = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return share


def suppress(boxes: Array, scores: Array, overlap: float, most: int) -> list[int]:
    """Greedy non-maximum suppression: indices of the boxes kept, best score first, `most` at the most.

    A box is dropped when its IoU with a better one that was kept is above `overlap`. Equal scores keep their order.
    """
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(order) and len(kept) < most:
        best = int(order[0])
        kept.append(best)
        rest = order[1:]
        order = rest[iou(boxes[best : best + 1], boxes[rest])[0] <= overlap]
    return kept


def max_boxes_per_region(annotations: Iterable[Sequence[Box]]) -> dict[str, int]:
    """The largest number of boxes that one annotated leaf has of each region."""
    most: dict[str, int] = {}
    for boxes in annotations:
        for region, count in Counter(box.region for box in boxes).items():
            most[region] = max(most.get(region, 0), count)
    return most


def select_boxes(boxes: Sequence[Box], confidence: float, most: Mapping[str, int]) -> list[Box]:
    """The best boxes of each region at or above `confidence`, no more than `most[region]` of them, best first."""
    kept: list[Box] = []
    for region, limit in most.items():
        ranked = sorted((b for b in boxes if b.region == region and b.score >= confidence), key=lambda b: -b.score)
        kept += ranked[:limit]
    return kept


def average_precision(
    truths: Sequence[Sequence[Box]], found: Sequence[Sequence[Box]], region: str, threshold: float = 0.5
) -> float | None:
    """AP of one region over images: mean interpolated precision at 101 recalls (COCO). None if no image has the region.

    Detections over all images go by falling score; each takes the free true box that it overlaps most, if IoU >= threshold.
    """
    total, rows = 0, []
    for truth, boxes in zip(truths, found, strict=True):
        mine = [b for b in truth if b.region == region]
        total += len(mine)
        rows += _hits(mine, [b for b in boxes if b.region == region], threshold)
    if total == 0:
        return None
    if not rows:
        return 0.0
    ranked = np.array(sorted(rows, key=lambda row: -row[0]))
    hits = np.cumsum(ranked[:, 1])
    recall, precision = hits / total, hits / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, np.linspace(0, 1, 101) - 1e-12, side="left")
    return float(np.append(envelope, 0.0)[at].mean())


def _hits(truth: list[Box], boxes: list[Box], threshold: float) -> list[tuple[float, bool]]:
    """(score, is it a hit) for the boxes of one image."""
    ranked = sorted(boxes, key=lambda box: -box.score)
    if not truth or not ranked:
        return [(box.score, False) for box in ranked]
    overlaps = iou(as_array(ranked), as_array(truth))
    rows = []
    for box, overlap in zip(ranked, overlaps, strict=True):
        best = int(overlap.argmax())
        hit = bool(overlap[best] >= threshold)
        if hit:
            overlaps[:, best] = -1  # a true box is found once; what follows for it is a false alarm
        rows.append((box.score, hit))
    return rows


def as_array(boxes: Sequence[Box]) -> Array:
    """(N, 4) float64."""
    return np.array([(b.x0, b.y0, b.x1, b.y1) for b in boxes], dtype=np.float64).reshape(-1, 4)

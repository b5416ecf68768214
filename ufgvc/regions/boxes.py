"""Operations on boxes: tensors, selection and average precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_iou

from ufgvc.core.types import Box


def to_tensor(boxes: Sequence[Box]) -> Tensor:
    """(N, 4) float64: x0, y0, x1, y1 in pixels."""
    return torch.tensor([(b.x0, b.y0, b.x1, b.y1) for b in boxes], dtype=torch.float64).reshape(-1, 4)


def max_boxes_per_region(annotations: Iterable[Sequence[Box]]) -> dict[str, int]:
    """{region: largest number of its boxes on one annotated image}."""
    most: dict[str, int] = {}
    for boxes in annotations:
        for region, count in Counter(box.region for box in boxes).items():
            most[region] = max(most.get(region, 0), count)
    return most


def select_boxes(boxes: Sequence[Box], confidence: float, max_boxes: Mapping[str, int]) -> list[Box]:
    """The `max_boxes[region]` best boxes of each region with a score of at least `confidence`, by falling score."""
    selected: list[Box] = []
    for region, limit in max_boxes.items():
        ranked = sorted((b for b in boxes if b.region == region and b.score >= confidence), key=lambda b: -b.score)
        selected += ranked[:limit]
    return selected


def average_precision(
    truths: Sequence[Sequence[Box]], found: Sequence[Sequence[Box]], region: str, iou_threshold: float = 0.5
) -> float | None:
    """AP of one region over images: mean interpolated precision at 101 recalls (COCO). None if no image has the region.

    Detections over all images go by falling score; each matches the free true box of the largest IoU, if that is at
    least `iou_threshold`.
    """
    total = 0
    rows: list[tuple[float, bool]] = []
    for truth, boxes in zip(truths, found, strict=True):
        mine = [b for b in truth if b.region == region]
        total += len(mine)
        ranked = sorted((b for b in boxes if b.region == region), key=lambda box: -box.score)
        rows += zip((box.score for box in ranked), match_boxes(mine, ranked, iou_threshold), strict=True)
    if total == 0:
        return None
    if not rows:
        return 0.0
    ordered = np.array(sorted(rows, key=lambda row: -row[0]))
    hits = np.cumsum(ordered[:, 1])
    recall, precision = hits / total, hits / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, np.linspace(0, 1, 101) - 1e-12, side="left")
    return float(np.append(envelope, 0.0)[at].mean())


def match_boxes(truth: Sequence[Box], ranked: Sequence[Box], iou_threshold: float) -> list[bool]:
    """Which of the detections in one image, best first, are true positives. A true box is matched once at most."""
    if not truth:
        return [False] * len(ranked)
    overlaps = box_iou(to_tensor(ranked), to_tensor(truth))
    matches = []
    for overlap in overlaps:  # a view, so that it shows the boxes that are matched already
        best = int(overlap.argmax())
        matches.append(bool(overlap[best] >= iou_threshold))
        if matches[-1]:
            overlaps[:, best] = -1
    return matches

"""Operations on boxes: tensors, selection and average precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou

from ufgvc.core.types import Box
from ufgvc.regions import yolo


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
    """AP of one region over images, as YOLOv5 computes it (`yolo.average_precision`). None if no image has the region.

    In each image the detections are matched by falling score, each to the free true box of the largest IoU, if that is
    at least `iou_threshold`.
    """
    total = 0
    matches: list[bool] = []
    scores: list[float] = []
    for truth, boxes in zip(truths, found, strict=True):
        mine = [box for box in truth if box.region == region]
        total += len(mine)
        ranked = sorted((box for box in boxes if box.region == region), key=lambda box: -box.score)
        matches += match_boxes(mine, ranked, iou_threshold)
        scores += [box.score for box in ranked]
    return yolo.average_precision(matches, scores, total) if total else None


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

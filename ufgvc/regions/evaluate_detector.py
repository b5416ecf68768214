"""Evaluates a region detector on annotated images that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
from torchvision.ops import box_iou

from ufgvc.core.types import Box
from ufgvc.data.dataset import Dataset
from ufgvc.data.images import Pixels
from ufgvc.regions.annotated import DetectorSplit, read_pixels
from ufgvc.regions.boxes import average_precision, select_boxes, to_tensor
from ufgvc.regions.detector import Detector

_BATCH_SIZE = 16
_NUM_EXAMPLES = 3
Example = tuple[str, Pixels, Sequence[Box]]


def evaluate_detector(
    detector: Detector, dataset: Dataset, split: DetectorSplit, confidence: float
) -> tuple[dict[str, Any], list[Example]]:
    """Metrics on `split.evaluation`, and some of the images with their boxes for a figure.

    map50 uses detections of every score. num_complete counts the images on which each annotated region was found: at
    least one box with a score of `confidence` or more has an IoU of 0.5 or more with an annotated one, among at most
    `detector.max_boxes` boxes of the region.
    """
    truths: list[tuple[Box, ...]] = []
    found: list[list[Box]] = []
    examples: list[Example] = []
    num_complete = 0
    images = read_pixels(dataset, split.evaluation)
    while batch := list(islice(images, _BATCH_SIZE)):
        predictions = detector.predict([pixels for _, pixels in batch])
        for (image, pixels), boxes in zip(batch, predictions, strict=True):
            selected = select_boxes(boxes, confidence, detector.max_boxes)
            annotated = {box.region for box in image.boxes}
            num_complete += all(_is_found(region, image.boxes, selected) for region in annotated)
            truths.append(image.boxes)
            found.append(boxes)
            if len(examples) < _NUM_EXAMPLES:
                examples.append((image.image_id, pixels, selected))
    by_region = {region: average_precision(truths, found, region) for region in dataset.regions}
    measured = [value for value in by_region.values() if value is not None]
    metrics = {
        "map50": float(np.mean(measured)) if measured else 0.0,
        "map50_by_region": by_region,
        "num_complete": num_complete,
        "num_evaluated": len(split.evaluation),
        "confidence": confidence,
        "num_trained": len(split.train),
        "evaluated_on": split.evaluated_on,
        "validation": "last",
    }
    return metrics, examples


def _is_found(region: str, truth: Sequence[Box], found: Sequence[Box]) -> bool:
    first, second = (to_tensor([box for box in boxes if box.region == region]) for boxes in (truth, found))
    return bool((box_iou(first, second) >= 0.5).any())

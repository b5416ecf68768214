"""Overlap, suppression, average precision, and which annotated leaves are drawn."""

from __future__ import annotations

import numpy as np
import pytest

from ufgvc.core.errors import UserError
from ufgvc.core.types import Box
from ufgvc.regions.annotated import Leaf, split_annotated
from ufgvc.regions.boxes import average_precision, iou, max_boxes_per_region, select_boxes, suppress


def box(x0: float, y0: float, x1: float, y1: float, score: float = 1.0, region: str = "vein") -> Box:
    return Box(region, x0, y0, x1, y1, score)


def test_iou_of_known_rectangles():
    first = np.array([[0, 0, 10, 10], [5, 5, 5, 5]], float)
    second = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 10, 20, 20]], float)
    assert iou(first, second) == pytest.approx(np.array([[1, 50 / 150, 0], [0, 0, 0]]))


def test_iou_agrees_with_torchvision():
    from torch import from_numpy
    from torchvision.ops import box_iou

    corners = np.random.default_rng(0).uniform(0, 100, (2, 20, 4))
    ordered = np.concatenate(
        [np.minimum(corners[..., :2], corners[..., 2:]), np.maximum(corners[..., :2], corners[..., 2:])], axis=2
    )
    assert iou(*ordered) == pytest.approx(box_iou(*map(from_numpy, ordered)).numpy())


def test_suppression_agrees_with_torchvision():
    from torch import from_numpy
    from torchvision.ops import nms

    random = np.random.default_rng(1)
    low = random.uniform(0, 60, (200, 2))
    boxes, scores = np.concatenate([low, low + random.uniform(10, 40, (200, 2))], axis=1), random.uniform(size=200)
    assert suppress(boxes, scores, 0.5, 300) == nms(from_numpy(boxes), from_numpy(scores), 0.5).tolist()
    assert len(suppress(boxes, scores, 0.5, 3)) == 3


def test_plausible_boxes_are_the_best_of_each_region():
    found = [box(0, 0, 1, 1, 0.4), box(0, 0, 2, 2, 0.9), *(box(0, 0, 3, 3, s, "contour") for s in (0.1, 0.5, 0.6, 0.7))]
    assert max_boxes_per_region([found[:1], found[2:4]]) == {"vein": 1, "contour": 2}
    kept = select_boxes(found, 0.3, {"vein": 1, "contour": 2})
    assert [(b.region, b.score) for b in kept] == [("vein", 0.9), ("contour", 0.7), ("contour", 0.6)]
    assert select_boxes(found, 0.95, {"vein": 1, "contour": 2}) == []


def test_average_precision_of_hand_worked_cases():
    truth = [[box(0, 0, 10, 10)], [box(0, 0, 10, 10)]]
    assert average_precision(truth, [[box(0, 0, 10, 10, 0.9)], [box(0, 0, 10, 10, 0.8)]], "vein") == pytest.approx(1)
    # The better score is a false alarm: precision is 1/2 at recall 1/2, and recall 1 is never reached.
    worse = average_precision(truth, [[box(50, 50, 60, 60, 0.9)], [box(0, 0, 10, 10, 0.8)]], "vein")
    assert worse == pytest.approx(0.5 * 51 / 101)
    # A second box on a leaf that was found already is a false alarm, but one that comes last does no harm.
    twice = average_precision(
        truth, [[box(0, 0, 10, 10, 0.9), box(0, 0, 10, 9, 0.1)], [box(0, 0, 10, 10, 0.8)]], "vein"
    )
    assert twice == pytest.approx(1)
    assert average_precision(truth, [[], []], "vein") == 0
    assert average_precision(truth, [[], []], "contour") is None


def test_average_precision_counts_only_overlaps_of_half():
    truth = [[box(0, 0, 10, 10)]]
    assert average_precision(truth, [[box(0, 0, 10, 5, 0.9)]], "vein") == pytest.approx(1)
    assert average_precision(truth, [[box(0, 0, 10, 4.9, 0.9)]], "vein") == 0


def leaves(train: int, test: int) -> list[Leaf]:
    rows = [("train", k) for k in range(train)] + [("test", k) for k in range(test)]
    return [Leaf(f"{split}-{k:03d}", split, f"{split}-00000", k, (box(0, 0, 1, 1),)) for split, k in rows]


@pytest.mark.parametrize(
    ("train", "test", "trained", "unseen", "words"),
    [(40, 9, 30, 9, "test"), (40, 0, 30, 10, "not drawn"), (20, 0, 16, 4, "held back")],
)
def test_a_detector_is_never_measured_on_what_it_was_trained_on(train, test, trained, unseen, words):
    draw = split_annotated(leaves(train, test), 30, 0, "here")
    assert (len(draw.train), len(draw.unseen)) == (trained, unseen)
    assert words in draw.measured_on
    assert all(leaf.split == "train" for leaf in draw.train)
    assert not {leaf.image_id for leaf in draw.train} & {leaf.image_id for leaf in draw.unseen}


def test_the_draw_depends_on_the_seed_and_not_on_the_order():
    first = split_annotated(leaves(40, 5), 10, 0, "here").train
    assert split_annotated(leaves(40, 5)[::-1], 10, 0, "here").train == first
    assert split_annotated(leaves(40, 5), 10, 1, "here").train != first


def test_too_few_annotated_leaves_are_refused():
    with pytest.raises(UserError, match="only 3 training photographs have boxes"):
        split_annotated(leaves(3, 5), 30, 0, "here")

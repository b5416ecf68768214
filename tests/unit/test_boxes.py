"""Selection of boxes, average precision, and the split of annotated images."""

from __future__ import annotations

import numpy as np
import pytest

from ufgvc.core.errors import UserError
from ufgvc.core.types import Box
from ufgvc.regions.annotated import AnnotatedImage, split_annotated
from ufgvc.regions.boxes import average_precision, match_boxes, max_boxes_per_region, select_boxes
from ufgvc.regions.settings import DetectSettings


def box(x0: float, y0: float, x1: float, y1: float, score: float = 1.0, region: str = "vein") -> Box:
    return Box(region, x0, y0, x1, y1, score)


def test_selected_boxes_are_the_best_of_each_region():
    found = [box(0, 0, 1, 1, 0.4), box(0, 0, 2, 2, 0.9), *(box(0, 0, 3, 3, s, "contour") for s in (0.1, 0.5, 0.6, 0.7))]
    assert max_boxes_per_region([found[:1], found[2:4]]) == {"vein": 1, "contour": 2}
    selected = select_boxes(found, 0.3, {"vein": 1, "contour": 2})
    assert [(b.region, b.score) for b in selected] == [("vein", 0.9), ("contour", 0.7), ("contour", 0.6)]
    assert select_boxes(found, 0.95, {"vein": 1, "contour": 2}) == []


def test_average_precision_of_hand_worked_cases():
    truth = [[box(0, 0, 10, 10)], [box(0, 0, 10, 10)]]
    # 0.995 is the largest value of YOLOv5's formula (the paper's figure for SoyLocal).
    perfect = [[box(0, 0, 10, 10, 0.9)], [box(0, 0, 10, 10, 0.8)]]
    assert average_precision(truth, perfect, "vein") == pytest.approx(0.995)
    # The better score is a false positive: precision is 1/2 at recall 1/2, and recall 1 is never reached.
    worse = average_precision(truth, [[box(50, 50, 60, 60, 0.9)], [box(0, 0, 10, 10, 0.8)]], "vein")
    assert worse == pytest.approx(0.5 * 51 / 101, abs=0.01)
    # A second box on an image that was found already is a false positive, but the last one does not change the result.
    twice = [[*perfect[0], box(0, 0, 10, 9, 0.1)], perfect[1]]
    assert average_precision(truth, twice, "vein") == pytest.approx(0.995)
    assert average_precision(truth, [[], []], "vein") == 0
    assert average_precision(truth, [[], []], "contour") is None


def test_average_precision_counts_only_overlaps_of_half():
    truth = [[box(0, 0, 10, 10)]]
    assert average_precision(truth, [[box(0, 0, 10, 5, 0.9)]], "vein") == pytest.approx(0.995)
    assert average_precision(truth, [[box(0, 0, 10, 4.9, 0.9)]], "vein") == 0


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_near_that_of_coco(seed: int):
    """The mean of the interpolated precision at 101 recalls."""
    rng = np.random.default_rng(seed)
    truths = [[box(0, 0, 10, 10), box(40, 0, 50, 10)] for _ in range(30)]
    found = [
        [box(b.x0, b.y0 + shift, b.x1, b.y1 + shift, rng.uniform()) for b in truth for shift in rng.normal(0, 4, 2)]
        for truth in truths
    ]
    rows = []
    for truth, boxes in zip(truths, found, strict=True):
        ranked = sorted(boxes, key=lambda b: -b.score)
        rows += zip((b.score for b in ranked), match_boxes(truth, ranked, 0.5), strict=True)
    hits = np.cumsum([hit for _, hit in sorted(rows, key=lambda row: -row[0])])
    recall, precision = hits / 60, hits / np.arange(1, len(hits) + 1)
    coco = np.mean([precision[recall >= r - 1e-12].max(initial=0) for r in np.linspace(0, 1, 101)])
    assert 0.2 < coco < 0.95
    assert average_precision(truths, found, "vein") == pytest.approx(coco, abs=0.01)


def leaves(train: int, test: int) -> list[AnnotatedImage]:
    rows = [("train", k) for k in range(train)] + [("test", k) for k in range(test)]
    return [AnnotatedImage(f"{name}-{k:03d}", name, f"{name}-00000", k, (box(0, 0, 1, 1),)) for name, k in rows]


@pytest.mark.parametrize(
    ("train", "test", "trained", "evaluated", "description"),
    [(40, 9, 30, 9, "test"), (40, 0, 30, 10, "not sampled"), (20, 0, 16, 4, "held out")],
)
def test_a_detector_is_never_evaluated_on_what_it_was_trained_on(train, test, trained, evaluated, description):
    split = split_annotated(leaves(train, test), 30, 0, "here")
    assert (len(split.train), len(split.evaluation)) == (trained, evaluated)
    assert description in split.evaluated_on
    assert all(leaf.split == "train" for leaf in split.train)
    assert not {leaf.image_id for leaf in split.train} & {leaf.image_id for leaf in split.evaluation}


def test_the_split_depends_on_the_seed_and_not_on_the_order():
    first = split_annotated(leaves(40, 5), 10, 0, "here").train
    assert split_annotated(leaves(40, 5)[::-1], 10, 0, "here").train == first
    assert split_annotated(leaves(40, 5), 10, 1, "here").train != first


@pytest.mark.parametrize(("train", "test", "evaluated"), [(3, 9, "test"), (3, 0, "training")])
def test_a_detector_that_is_not_trained_is_measured_on_all_of_a_split(train, test, evaluated):
    split = split_annotated(leaves(train, test), 0, 0, "here")
    assert split.train == ()
    assert split.evaluated_on == f"annotated {evaluated} leaves"
    assert len(split.evaluation) == (test or train)


def test_without_any_boxes_there_is_nothing_to_measure():
    with pytest.raises(UserError, match="no photograph has boxes"):
        split_annotated([], 0, 0, "here")


@pytest.mark.parametrize("settings", [{"num_annotated": 3}, {"num_annotated": 0, "init": "none"}])
def test_a_number_of_annotated_leaves_that_makes_no_detector_is_refused(settings):
    with pytest.raises(ValueError, match="num_annotated"):
        DetectSettings(**settings)


def test_too_few_annotated_leaves_are_refused():
    with pytest.raises(UserError, match="only 3 training photographs have boxes"):
        split_annotated(leaves(3, 5), 30, 0, "here")

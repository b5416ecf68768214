"""The most doubtful predictions, and how new photographs differ from the leaves that a model knows."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ufgvc.evaluation.doubt import MostDoubtful
from ufgvc.evaluation.drift import DriftCounter, Histogram
from ufgvc.models.calibration import Calibration


def row(probability: float = 0.9, known: bool = True, ood_score: float = 0.1, name: str = "a", **more: Any) -> dict:
    return {
        "probabilities": [probability],
        "known": known,
        "ood_score": ood_score,
        "names": [name],
        "distances": [],
    } | more


def test_unknown_leaves_come_first_then_the_smallest_probability() -> None:
    random.seed(0)
    rows = [row(random.random(), random.random() > 0.3, random.random(), number=number) for number in range(200)]
    wanted = sorted(
        rows, key=lambda each: (each["known"], each["probabilities"][0] if each["known"] else -each["ood_score"])
    )
    for limit in (0, 1, 17, 200, 500):
        kept = MostDoubtful(limit)
        for each in rows:
            kept.add(each)
        assert [each["number"] for each in kept.rows] == [each["number"] for each in wanted[:limit]]


def test_of_equally_doubtful_leaves_the_first_is_kept() -> None:
    kept = MostDoubtful(2)
    for number in range(5):
        kept.add(row(number=number))
    assert [each["number"] for each in kept.rows] == [0, 1]


def test_the_histogram_knows_the_median_to_half_a_bin() -> None:
    values = np.random.default_rng(0).uniform(0, 2, 1001)
    counted = Histogram()
    assert counted.median is None
    for value in (*values, 2.0, 0.0):  # the ends have a bin
        counted.add(value)
    assert counted.median == pytest.approx(np.median([*values, 2.0, 0.0]), abs=0.0005)


def model(threshold: float | None = 0.5, counts: list[int] | None = None) -> Any:
    """What `DriftCounter` reads of a model."""
    calibration = Calibration(temperature=1, threshold=threshold, ood_median=0.2, num_images=40, source="3-fold")
    return SimpleNamespace(
        classes=("a", "b"),
        calibration=calibration,
        subspace=None if threshold is None else object(),
        info={} if counts is None else {"class_counts": counts},
    )


def counted(found: Any, rows: list[dict]) -> Any:
    counter = DriftCounter(found)
    for each in rows:
        counter.add(each)
    return counter.result()


def test_what_is_known_is_compared_with_the_calibration_and_the_training_leaves() -> None:
    rows = [row(name="a", ood_score=0.2)] * 30 + [row(name="b", ood_score=0.2)] * 10
    drift = counted(model(counts=[8, 8]), rows)
    assert (drift.photographs, drift.unknown, drift.cultivars, drift.most_named) == (40, 0, 2, "a")
    assert drift.mix_change == pytest.approx(0.25)  # (|0.75 - 0.5| + |0.25 - 0.5|) / 2
    assert drift.summary() == (
        "drift: 0.0 % unknown (calibration leaves 5.0 %), median out-of-distribution score 0.200 (calibration leaves "
        "0.200), 2 of 2 cultivars named, most often a, 75 % (50 % of the training leaves)"
    )
    assert drift.warnings() == []


@pytest.mark.parametrize(("unknown", "warned"), [(2, False), (20, True)])
def test_more_unknown_leaves_than_chance_explains_are_warned_of(unknown: int, warned: bool) -> None:
    rows = [row(known=False, ood_score=0.9)] * unknown + [row()] * (40 - unknown)
    drift = counted(model(), rows)
    assert drift.more_unknown is warned
    assert any("are unknown" in text for text in drift.warnings()) is warned


def test_another_mix_of_cultivars_is_warned_of() -> None:
    assert any("another mix" in text for text in counted(model(counts=[1, 9]), [row()] * 40).warnings())
    assert counted(model(counts=[1, 9]), [row()] * 3).warnings() == [], "three leaves are no mix"


def test_a_model_without_a_threshold_and_no_photographs_are_no_error() -> None:
    drift = counted(model(threshold=None), [row(distances=[0.25, 0.5])] * 4)
    assert drift.allowed is None
    assert not drift.more_unknown
    assert "median distance to the nearest training leaf 0.250" in drift.summary()
    assert counted(model(), []).summary() == "drift: no photograph was predicted"
    assert counted(model(), []).warnings() == []

"""Planted label mistakes, leaves unlike all others, cultivars that look alike, and the learning curve."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.audit.clusters import clusters
from ufgvc.evaluation.audit.folds import ChosenLinear, OutOfFold, linear_fit, partitions, predict_out_of_fold
from ufgvc.evaluation.audit.growth import carry_on, grow
from ufgvc.evaluation.audit.intervals import wilson
from ufgvc.evaluation.audit.labels import NEIGHBOURS, check_labels, compare_pairs, neighbour_distances

LABELS = np.repeat(np.arange(4), 30).astype(np.int64)


def named(features: np.ndarray, labels: np.ndarray) -> OutOfFold:
    units = np.arange(len(labels))
    return predict_out_of_fold(features, labels, list(partitions(labels, units, 5, 2, 0)), units, ChosenLinear(0, []))


def test_five_percent_of_swapped_labels_are_found() -> None:
    swapped = np.random.default_rng(1).choice(120, 6, replace=False)
    labels = LABELS.copy()
    labels[swapped] = (labels[swapped] + 1) % 4
    found = check_labels(named(clusters(LABELS), labels), labels)
    right = set(found.suspects.tolist()) & set(swapped.tolist())
    assert len(right) / len(swapped) >= 0.8
    assert len(right) / len(found.suspects) >= 0.8
    assert (found.suggested[list(right)] == LABELS[list(right)]).all()
    assert found.quality[found.suspects].tolist() == sorted(found.quality[found.suspects].tolist())
    clean = check_labels(named(clusters(LABELS), LABELS), LABELS)
    assert len(clean.suspects) <= 1


def test_leaves_that_no_fold_held_out_are_not_suspected() -> None:
    held = LABELS != 3
    probability = np.where(held[:, None], np.eye(4)[LABELS] * 0.9 + 0.025, np.nan)
    probability[0] = [0.01, 0.98, 0.01, 0.0]
    found = check_labels(OutOfFold(probability, np.where(held, 1.0, np.nan), held), LABELS)
    assert found.suspects.tolist() == [0]
    assert found.suggested[0] == 1
    assert (found.suggested[~held] == -1).all()
    assert np.isnan(found.quality[~held]).all()


def test_one_cultivar_left_gives_no_suspect() -> None:
    held = LABELS == 0
    probability = np.where(held[:, None], 0.25, np.nan) * np.ones(4)
    assert len(check_labels(OutOfFold(probability, np.where(held, 1.0, np.nan), held), LABELS).suspects) == 0


def test_a_leaf_unlike_all_others() -> None:
    features = clusters(LABELS, spread=0.2).astype(float)
    features[7] = -2 * features.sum(axis=0) / np.linalg.norm(features.sum(axis=0)) * 3
    distances, unlike = neighbour_distances(features)
    assert np.flatnonzero(unlike).tolist() == [7]
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert distances[0] == pytest.approx(np.sort(np.delete(1 - unit @ unit[0], 0))[:NEIGHBOURS].mean())
    assert not neighbour_distances(features[:2])[1].any()
    assert not neighbour_distances(np.ones((9, 4)))[1].any()


def test_pairs_are_counted_and_compared() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    probability = np.array(
        [
            *([0.6, 0.4, 0], [0.3, 0.7, 0], [0.2, 0.5, 0.3], [0.5, 0.5, 0]),
            *([0.2, 0.8, 0], [0.9, 0.1, 0]),
            *([0.05, 0.05, 0.9], [0.0, 0.1, 0.9]),
        ]
    )
    right = (probability.argmax(axis=1) == labels).astype(float)
    pairs = compare_pairs(OutOfFold(probability, right, np.ones(8, bool)), labels, np.arange(8))
    first = pairs[0]
    assert (first.a, first.b, first.leaves, first.wrong) == (0, 1, (4, 2), (2, 1))
    # Of a: right, wrong, wrong, tie; of b: right, wrong.
    assert first.separated.value == pytest.approx((1.5 / 4 + 1 / 2) / 2)
    expected = wilson(first.separated.value, 6)
    assert (first.separated.low, first.separated.high) == (expected.low, expected.high)
    assert first.alike
    others = [pair for pair in pairs if (pair.a, pair.b) != (0, 1)]
    assert [pair.confused for pair in others] == [0, 0]
    # The third leaf of cultivar 0 is named 1, but 2 is likelier than 0 for it too.
    assert next(pair for pair in others if pair.a == 0).separated.value == pytest.approx((3 / 4 + 1) / 2)


def test_two_names_of_one_cultivar_cannot_be_separated() -> None:
    labels = LABELS.copy()
    labels[LABELS == 3] = np.where(np.arange(30) % 2, 3, 2)
    labels[LABELS == 2] = np.where(np.arange(30) % 2, 3, 2)
    truth = np.minimum(LABELS, 2)
    pairs = compare_pairs(named(clusters(truth, spread=0.3), labels), labels, np.arange(120))
    assert [(pair.a, pair.b) for pair in pairs if pair.alike] == [(2, 3)]
    assert pairs[0].confused > 15


def test_a_power_law_is_carried_on_exactly() -> None:
    leaves = np.array([2.0, 4.0, 8.0])
    values = np.repeat((1 - 0.8 * leaves**-0.5)[:, None], 40, axis=1)
    found = carry_on(values, leaves, np.arange(40), 0)
    assert found.value == pytest.approx(1 - 0.8 * 16**-0.5)
    assert found.low <= found.value <= found.high
    flat = carry_on(np.stack([np.full(40, 0.9), np.full(40, 0.6)]), leaves[:2], np.arange(40), 0)
    assert flat.value == pytest.approx(1 - np.sqrt(0.1 * 0.4)), "a curve that falls is not carried on below its mean"


def test_accuracy_grows_with_the_leaves() -> None:
    units = np.arange(120)
    parts = list(partitions(LABELS, units, 4, 2, 0))
    used: list[int] = []

    def fit(features: np.ndarray, labels: np.ndarray, own: np.ndarray) -> object:
        used.append(int(np.bincount(labels).max()))
        return linear_fit(1.0)(features, labels, own)

    curve = grow(clusters(LABELS, spread=1.5), LABELS, parts, units, fit, 0)
    assert [point.most for point in curve.points][:-1] == [1, 2, 4, 8, 16][: len(curve.points) - 1]
    assert max(used) <= 24
    values = [point.found.value for point in curve.points]
    assert values[-1] > values[0] + 0.1
    assert all(point.found.low < point.found.value < point.found.high for point in curve.points)
    assert curve.doubled_leaves == 2 * curve.points[-1].leaves
    assert curve.doubled is not None
    assert curve.doubled.value >= values[-1] - 0.02
    assert curve.last_gain is not None
    assert curve.last_gain.value == pytest.approx(values[-1] - values[-2])

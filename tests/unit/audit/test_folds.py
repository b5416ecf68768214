"""Names out of fold: what is kept together, what a classifier may see, and intervals that are honest about plants."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tests.unit.audit.clusters import clusters
from ufgvc.evaluation.audit.folds import (
    STRENGTHS,
    ChosenLinear,
    find_units,
    linear_fit,
    partitions,
    predict_out_of_fold,
    rotate,
)
from ufgvc.evaluation.audit.intervals import accuracy, effective_leaves, wilson
from ufgvc.evaluation.metrics import proportion

LABELS = np.repeat(np.arange(3), 8).astype(np.int64)


def test_plants_and_copies_are_units() -> None:
    groups = ["p", "p", None, None, "q", None, None]
    units = find_units(groups, [[1, 2], [5, 6]])
    assert len(set(units[:3])) == 1
    assert units[5] == units[6]
    assert len(set(units)) == 4
    assert len(set(find_units([None] * 4, []))) == 4


def test_no_classifier_sees_the_unit_of_a_leaf_that_it_names() -> None:
    units = np.arange(24) // 2
    seen: list[set[int]] = []

    class Recorder:
        classes_ = np.arange(3)

        def predict_proba(self, features: np.ndarray) -> np.ndarray:
            assert not {int(row[0]) // 2 for row in features} & seen[-1]
            return np.full((len(features), 3), 1 / 3)

    def fit(features: np.ndarray, labels: np.ndarray, own: np.ndarray) -> Recorder:
        assert own.tolist() == [int(row[0]) // 2 for row in features]
        seen.append(set(own.tolist()))
        return Recorder()

    parts = list(partitions(LABELS, units, 4, 3, 0))
    found = predict_out_of_fold(np.arange(24)[:, None].astype(float), LABELS, parts, units, fit)
    assert len(seen) == 12
    assert found.held.all()
    assert np.allclose(found.probability, 1 / 3)
    assert found.right.tolist() == (LABELS == 0).tolist()


def test_a_cultivar_with_one_plant_is_never_held_out() -> None:
    units = np.where(LABELS == 2, 99, np.arange(24))
    parts = list(partitions(LABELS, units, 4, 2, 0))
    found = predict_out_of_fold(clusters(LABELS), LABELS, parts, units, linear_fit(1.0))
    assert found.held.tolist() == (LABELS < 2).tolist()
    assert np.isnan(found.probability[LABELS == 2]).all()
    assert np.isnan(found.right[LABELS == 2]).all()


def test_many_leaves_get_one_partition() -> None:
    labels = np.arange(2001) % 3
    assert len(list(partitions(labels, np.arange(2001), 5, 3, 0))) == 1
    assert len(list(partitions(LABELS, np.arange(24), 5, 3, 0))) == 3


def test_rotated_embeddings_give_the_same_classifier() -> None:
    wide = clusters(LABELS, width=60)
    turned, kept = rotate(wide, 0)
    assert turned.shape == (24, 24)
    assert kept == pytest.approx(1)
    scaled = (wide - wide.mean(axis=0)) / wide.std(axis=0)
    exact = {"C": 0.1, "tol": 1e-10, "max_iter": 5000}
    direct = LogisticRegression(**exact).fit(scaled, LABELS).predict_proba(scaled)
    assert np.allclose(LogisticRegression(**exact).fit(turned, LABELS).predict_proba(turned), direct, atol=1e-4)


def test_the_strength_is_chosen_on_inner_folds() -> None:
    rng = np.random.default_rng(0)
    pure_noise, separated = rng.normal(size=(60, 30)), clusters(np.arange(60) % 3, spread=0.1)
    labels = np.arange(60) % 3
    choose = ChosenLinear(0, [])
    for features in (pure_noise, separated):
        choose(features, labels, np.arange(60))
    assert choose.chosen[0] == STRENGTHS[0], "noise is best answered by the prior"
    assert choose.chosen[1] == STRENGTHS[-1]
    choose(separated[:3], labels[:3], np.arange(3))
    assert choose.chosen[2] == 1.0


def test_the_interval_of_independent_leaves_is_wilsons() -> None:
    right = np.array([1.0] * 17 + [0.0] * 3)
    found, known = accuracy(right, np.arange(20)), proportion(17, 20)
    assert (found.value, found.low, found.high) == pytest.approx((known.value, known.low, known.high))


def test_the_interval_of_plants_is_wider_and_never_empty() -> None:
    right = np.array([1.0] * 16 + [0.0] * 4)
    single, plants = accuracy(right, np.arange(20)), accuracy(right, np.arange(20) // 4)
    assert plants.low < single.low
    assert plants.high > single.high
    assert effective_leaves(np.arange(20) // 4) == 5
    assert effective_leaves(np.array([0, 0, 0, 1])) == pytest.approx(16 / 10)
    perfect = accuracy(np.ones(20), np.arange(20))
    assert 0.8 < perfect.low < perfect.high == 1
    assert wilson(0.0, 5).low == pytest.approx(0)
    with pytest.raises(ValueError, match="no leaves"):
        accuracy(np.zeros(0), np.zeros(0, int))

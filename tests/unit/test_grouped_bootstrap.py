"""Statistics of grouped leaves: resamples of cultivars and groups, whose leaves are not independent."""

from __future__ import annotations

import itertools
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import bootstrap

from ufgvc.evaluation.benchmark_record import BenchmarkDataset
from ufgvc.evaluation.bootstrap import (
    accuracy_interval,
    paired_group_bootstrap,
    pooled_groups,
    resampled_group_means,
    resampled_means,
)


def test_grouped_resamples_have_the_distribution_of_every_choice() -> None:
    """Two cultivars of two groups each; every choice of cultivars and, for each chosen one, of its groups."""
    cultivars = [[[1, 0], [1]], [[0], [1, 1, 0]]]
    expected: Counter[Fraction] = Counter()
    for chosen in itertools.product(cultivars, repeat=2):
        for groups in itertools.product(*(itertools.product(each, repeat=2) for each in chosen)):
            flat = [value for cultivar in groups for group in cultivar for value in group]
            expected[Fraction(sum(flat), len(flat))] += Fraction(1, 4 * 16)
    flat = [(value, c, g) for c, each in enumerate(cultivars) for g, group in enumerate(each) for value in group]
    values, owners, groups = (np.array(column) for column in zip(*flat, strict=True))
    draws = 40_000
    means = resampled_means(values[:, None].astype(float), owners, draws, seed=5, groups=groups)[:, 0]
    counts = Counter(np.round(means, 9).tolist())
    assert set(counts) == {round(float(mean), 9) for mean in expected}
    for mean, probability in expected.items():
        p = float(probability)
        assert abs(counts[round(float(mean), 9)] / draws - p) < 5 * np.sqrt(p * (1 - p) / draws)


def test_resampled_groups_have_the_distribution_of_every_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [[1, 0], [1], [0, 1, 1]]
    expected: Counter[Fraction] = Counter()
    for chosen in itertools.product(groups, repeat=3):
        flat = [value for group in chosen for value in group]
        expected[Fraction(sum(flat), len(flat))] += Fraction(1, 27)
    values = np.array([float(value) for group in groups for value in group])
    ids = np.repeat([7, 2, 5], [2, 1, 3])
    monkeypatch.setattr("ufgvc.evaluation.bootstrap.MAX_COUNTS", 3 * 7)  # 7 resamples at a time
    means = resampled_group_means(np.stack([values, 1 - values], axis=1), ids, 20_000, seed=1)
    np.testing.assert_allclose(means.sum(axis=1), 1)  # the columns share their resamples
    counts = Counter(np.round(means[:, 0], 9).tolist())
    assert set(counts) == {round(float(mean), 9) for mean in expected}
    for mean, probability in expected.items():
        p = float(probability)
        assert abs(counts[round(float(mean), 9)] / 20_000 - p) < 5 * np.sqrt(p * (1 - p) / 20_000)


def test_a_difference_over_groups_is_wider_than_over_their_leaves() -> None:
    random = np.random.default_rng(2)
    plants = np.repeat(random.integers(-1, 2, 40).astype(float), 5)
    whole = paired_group_bootstrap(plants, np.zeros(200), np.repeat(np.arange(40), 5))
    naive = paired_group_bootstrap(plants, np.zeros(200), np.arange(200))
    assert whole.value == naive.value == plants.mean()
    assert whole.high - whole.low == pytest.approx(np.sqrt(5) * (naive.high - naive.low), rel=0.1)


def test_groups_of_different_data_sets_are_different() -> None:
    grouped = BenchmarkDataset("a", np.array([0, 0, 1]), 2, np.array([1, 1, 0]))
    alone = BenchmarkDataset("b", np.array([0, 1]), 2)
    assert pooled_groups([grouped, alone, grouped]).tolist() == [1, 1, 0, 2, 3, 5, 5, 4]


def test_the_interval_of_one_cultivar_is_scipys_bootstrap_over_its_groups() -> None:
    random = np.random.default_rng(0)
    sizes = random.integers(1, 6, 30)
    values = np.concatenate([np.clip(random.normal(random.random(), 0.1, n), 0, 1) for n in sizes])
    groups = np.repeat(np.arange(30), sizes)
    sums = np.bincount(groups, values)
    found = resampled_means(values[:, None], np.zeros(len(values), np.int64), 20_000, groups=groups)[:, 0]
    theirs = bootstrap(
        (sums, sizes),
        lambda s, n, axis: s.sum(axis) / n.sum(axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=1,
    ).confidence_interval
    assert np.quantile(found, [0.025, 0.975]) == pytest.approx([theirs.low, theirs.high], abs=0.01)


def test_more_leaves_of_the_same_plants_do_not_narrow_the_interval() -> None:
    random = np.random.default_rng(3)
    plants, cultivars = (random.random(40) < 0.6).astype(float), np.repeat(np.arange(8), 5)
    once = accuracy_interval(plants, cultivars, 4000)
    ids = np.repeat(np.arange(40), 6)
    means = resampled_means(np.repeat(plants, 6)[:, None], np.repeat(cultivars, 6), 4000, groups=ids)[:, 0]
    assert tuple(np.quantile(means, [0.025, 0.975])) == pytest.approx((once.low, once.high))
    naive = accuracy_interval(np.repeat(plants, 6), np.repeat(cultivars, 6), 4000)
    assert naive.high - naive.low < 0.95 * (once.high - once.low)

"""The two-level bootstrap against enumeration and the variance it must have; Holm's correction by hand."""

from __future__ import annotations

import itertools
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ufgvc.evaluation import bootstrap as paired
from ufgvc.evaluation.benchmark_record import BenchmarkDataset, MethodResult, RunResult

DRAW = BenchmarkDataset("a", np.array([0, 0, 1, 1, 2, 2]), 3)
OTHER = BenchmarkDataset("b", np.array([0, 1]), 2)


def entry(*cells: RunResult) -> MethodResult:
    return MethodResult(key="m", label="M", method="m", backbone="net", tables=frozenset({"II"}), runs=cells)


def right(text: str) -> np.ndarray:
    return np.array([letter == "1" for letter in text])


def every_resample(values: list[list[int]]) -> dict[Fraction, Fraction]:
    """{mean: probability} over every choice of cultivars and, for each chosen one, of its leaves."""
    found: Counter[Fraction] = Counter()
    for chosen in itertools.product(values, repeat=len(values)):
        choices = [list(itertools.product(leaves, repeat=len(leaves))) for leaves in chosen]
        for leaves in itertools.product(*choices):
            flat = [value for cultivar in leaves for value in cultivar]
            weight = Fraction(1, len(values) ** len(values))
            for options in choices:
                weight /= len(options)
            found[Fraction(sum(flat), len(flat))] += weight
    return found


@pytest.mark.parametrize("values", [[[1], [0, 1]], [[0, 1], [1, 1], [-1, 0]], [[2, 0], [1], [0, 1]]])
def test_resamples_have_the_distribution_of_every_choice(values: list[list[int]]) -> None:
    expected = every_resample(values)
    assert sum(expected.values()) == 1
    ids = np.array([7 * place for place, leaves in enumerate(values) for _ in leaves])
    flat = np.array([value for leaves in values for value in leaves], float)
    mixed = np.random.default_rng(1).permutation(len(ids))
    draws = 40_000
    means = paired.resampled_means(flat[mixed][:, None], ids[mixed], draws, seed=3)[:, 0]
    counts = Counter(np.round(means, 9).tolist())
    assert set(counts) == {round(float(mean), 9) for mean in expected}
    for mean, probability in expected.items():
        p = float(probability)
        assert abs(counts[round(float(mean), 9)] / draws - p) < 5 * np.sqrt(p * (1 - p) / draws)


@pytest.mark.parametrize("within", [0.0, 1.0])
def test_both_levels_vary(within: float) -> None:
    """Var = (variance of the cultivars' means + mean variance within a cultivar / n) / C, each with its own divisor."""
    random = np.random.default_rng(4)
    table = random.normal(size=(25, 1)) + within * random.normal(size=(25, 4))
    expected = (table.mean(axis=1).var() + table.var(axis=1).mean() / 4) / 25
    means = paired.resampled_means(table.reshape(-1, 1), np.repeat(np.arange(25), 4), 20_000, seed=0)
    assert means.var() == pytest.approx(expected, rel=0.05)
    assert means.mean() == pytest.approx(table.mean(), abs=5 * np.sqrt(expected / 20_000))


def test_columns_share_their_resamples_and_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(2)
    values, ids = random.normal(size=(12, 2)), np.repeat(np.arange(4), 3)
    both = paired.resampled_means(values, ids, 500, seed=1)
    alone = paired.resampled_means((values[:, 0] - values[:, 1])[:, None], ids, 500, seed=1)
    np.testing.assert_allclose(both[:, 0] - both[:, 1], alone[:, 0], atol=1e-12)
    np.testing.assert_array_equal(both, paired.resampled_means(values, ids, 500, seed=1))
    assert not np.array_equal(both, paired.resampled_means(values, ids, 500, seed=2))
    monkeypatch.setattr(paired, "MAX_COUNTS", 12 * 7)  # 7 resamples at a time
    pieces = paired.resampled_means(values, ids, 20_000, seed=1)
    assert pieces.shape == (20_000, 2)
    whole_sd = np.sqrt((values.reshape(4, 3, 2).mean(1).var(0) + values.reshape(4, 3, 2).var(1).mean(0) / 3) / 4)
    np.testing.assert_allclose(pieces.std(axis=0), whole_sd, rtol=0.05)


def test_the_order_of_the_two_turns_the_sign_only() -> None:
    random = np.random.default_rng(0)
    first, second, ids = random.random(30), random.random(30), np.repeat(np.arange(10), 3)
    one, other = paired.paired_bootstrap(first, second, ids, 2000), paired.paired_bootstrap(second, first, ids, 2000)
    assert one.value == pytest.approx(first.mean() - second.mean())
    assert (one.value, one.low, one.high, one.p) == pytest.approx((-other.value, -other.high, -other.low, other.p))
    assert one.low < one.value < one.high


def test_the_same_answers_are_no_difference_and_always_better_is_the_smallest_p() -> None:
    ids, same = np.repeat(np.arange(5), 2), np.tile([1 / 3, 2 / 3], 5)
    assert paired.paired_bootstrap(same, same.copy(), ids, 999) == paired.Difference(0, 0, 0, 1)
    better = paired.paired_bootstrap(np.ones(10), np.zeros(10), ids, 999)
    assert better == paired.Difference(1, 1, 1, pytest.approx(2 / 1000))


def test_p_counts_both_tails_with_one_added() -> None:
    resampled = np.array([-0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert paired.difference(0.2, resampled).p == pytest.approx(2 * (3 + 1) / 10)
    assert (
        paired.difference(0.0, np.array([-1.0, 1e-17, 1e-17, 1e-17, 1.0])).p == 1
    )  # sums that are equal but for their order
    assert paired.difference(0.2, np.linspace(0, 1, 101)).low == pytest.approx(0.025)


def test_the_interval_covers_the_truth_when_leaves_of_a_cultivar_are_alike() -> None:
    random, covered, narrow, trials, ids = np.random.default_rng(8), 0, 0, 150, np.repeat(np.arange(30), 3)
    for trial in range(trials):
        gap = 0.1 + 0.3 * np.repeat(random.normal(size=30), 3) + 0.15 * random.normal(size=90)
        found = paired.paired_bootstrap(gap, np.zeros(90), ids, 300, seed=trial)
        covered += found.low <= 0.1 <= found.high
        narrow += abs(gap.mean() - 0.1) < 1.96 * gap.std() / np.sqrt(90)  # leaves as if they were independent
    assert covered / trials > 0.9
    assert narrow / trials < 0.85


def test_accuracy_is_the_mean_with_its_interval() -> None:
    ids = np.repeat(np.arange(40), 3)
    mean = np.random.default_rng(0).random(120).round()
    found = paired.accuracy_interval(mean, ids, 2000)
    resampled = paired.resampled_means(mean[:, None], ids, 2000)[:, 0]
    assert found == paired.Estimate(mean.mean(), *np.quantile(resampled, [0.025, 0.975]))


def test_only_the_same_leaves_make_pairs() -> None:
    for first, second, ids in ((4, 5, 4), (4, 4, 5), (0, 0, 0)):
        with pytest.raises(ValueError, match="same leaves"):
            paired.paired_bootstrap(np.zeros(first), np.zeros(second), np.zeros(ids, int), 10)
    with pytest.raises(ValueError, match="same leaves"):
        paired.accuracy_interval(np.zeros(3), np.zeros(4, int), 10)
    with pytest.raises(ValueError, match="6,"):
        paired.seed_mean(entry(RunResult("a", 0, right("11111"))), [DRAW])


def test_seeds_are_averaged_and_draws_laid_end_to_end() -> None:
    runs = entry(
        RunResult("a", 0, right("110000")),
        RunResult("b", 0, right("01")),
        RunResult("a", 1, right("100001")),
        RunResult("a", 2, None, "out of memory"),
    )
    found = paired.seed_mean(runs, [DRAW, OTHER])
    assert found is not None
    assert found.tolist() == [1, 0.5, 0, 0, 0, 0.5, 0, 1]
    assert paired.pooled_cultivars([DRAW, OTHER]).tolist() == [0, 0, 1, 1, 2, 2, 3, 4]
    assert (
        paired.seed_mean(entry(RunResult("a", 0, right("110000")), RunResult("b", 0, None, "failed")), [DRAW, OTHER])
        is None
    )
    assert paired.seed_mean(runs, []) is None


def test_more_seeds_are_not_more_leaves() -> None:
    once = entry(RunResult("a", 0, right("110100")))
    often = entry(*(RunResult("a", seed, right("110100")) for seed in range(9)))
    intervals = [
        paired.accuracy_interval(mean, DRAW.labels, 500)
        for runs in (once, often)
        if (mean := paired.seed_mean(runs, [DRAW])) is not None
    ]
    assert len(intervals) == 2
    assert intervals[0] == intervals[1]


def test_holm_by_hand() -> None:
    assert paired.holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert paired.holm([0.9, 0.8]).tolist() == [1, 1]
    assert paired.holm([]).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_holm_steps_down(p_values: list[float]) -> None:
    """Rejected at a level: the smallest p as long as each is below level / (hypotheses left)."""
    adjusted = paired.holm(p_values)
    for level in (0.01, 0.05, 0.2):
        rejected: set[int] = set()
        for step, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
            if p_values[place] * (len(p_values) - step) > level:
                break
            rejected.add(place)
        assert {i for i, p in enumerate(adjusted) if p <= level} == rejected

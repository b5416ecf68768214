"""The interval of a paired difference and the leaves that would be needed: published figures, brute force,
simulation.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binom, binomtest, norm

from ufgvc.evaluation.paired_test import mcnemar, paired_interval, power, sample_size

Z = float(norm.ppf(0.975))


@pytest.mark.parametrize(
    ("gains", "losses", "n", "low", "high"),
    [
        # Fagerland, Lydersen and Laake, Statistical Analysis of Contingency Tables (2017), chapter 8, Tango's interval:
        (6, 16, 161, -0.1240, -0.0054),  # complete response before and after consolidation therapy
        (1, 7, 21, -0.517, -0.026),  # airway hyper-responsiveness before and after transplantation
    ],
)
def test_published_examples(gains: int, losses: int, n: int, low: float, high: float) -> None:
    assert paired_interval(gains, losses, n) == pytest.approx((low, high), abs=6e-4 if n < 100 else 6e-5)


def score(gains: int, losses: int, n: int, difference: float) -> float:
    """The score statistic with the likeliest nuisance share found by search over the multinomial likelihood, not by a
    formula.
    """

    def unlikely(q: float) -> float:
        shares = (q + difference, q, 1 - 2 * q - difference)
        return -sum(
            k * math.log(max(share, 1e-300))
            for k, share in zip((gains, losses, n - gains - losses), shares, strict=True)
            if k
        )

    bounds = (max(0.0, -difference), (1 - difference) / 2)
    q = minimize_scalar(unlikely, bounds=bounds, method="bounded", options={"xatol": 1e-13}).x
    return (gains - losses - n * difference) / math.sqrt(n * (2 * q + difference - difference**2))


@pytest.mark.parametrize(
    ("gains", "losses", "n"), [(6, 16, 161), (3, 0, 20), (0, 5, 12), (9, 9, 40), (1, 2, 3), (70, 20, 100)]
)
def test_both_bounds_are_where_the_score_test_turns(gains: int, losses: int, n: int) -> None:
    low, high = paired_interval(gains, losses, n)
    assert score(gains, losses, n, low) == pytest.approx(Z, abs=1e-3)
    assert score(gains, losses, n, high) == pytest.approx(-Z, abs=1e-3)


def test_every_table_of_a_few_leaves() -> None:
    for n in (1, 2, 5, 9):
        for gains in range(n + 1):
            for losses in range(n + 1 - gains):
                low, high = paired_interval(gains, losses, n)
                assert -1 <= low <= (gains - losses) / n <= high <= 1
                assert high - low > 0.1, "so few leaves say little"
                assert paired_interval(losses, gains, n) == pytest.approx((-high, -low))
    assert paired_interval(0, 0, 100) == pytest.approx((-(Z**2) / (100 + Z**2), Z**2 / (100 + Z**2)))
    assert paired_interval(10, 0, 10)[1] == 1
    for counts in ((-1, 0, 5), (3, 3, 5), (0, 0, 0)):
        with pytest.raises(ValueError):
            paired_interval(*counts)


def test_the_interval_covers_about_as_often_as_it_says() -> None:
    n, gain, loss = 40, 0.2, 0.08
    covered = 0.0
    for differing in range(n + 1):
        for gains in range(differing + 1):
            chance = binom.pmf(differing, n, gain + loss) * binom.pmf(gains, differing, gain / (gain + loss))
            if chance > 1e-9:
                low, high = paired_interval(gains, differing - gains, n)
                covered += chance * (low <= gain - loss <= high)
    assert 0.935 < covered < 0.97


def test_power_is_the_sum_over_every_outcome() -> None:
    n, disagreeing, favouring, alpha = 60, 0.3, 0.8, 0.05
    wanted = 0.0
    for differing in range(n + 1):
        for won in range(differing + 1):
            if 2 * won > differing and binomtest(won, differing).pvalue < alpha:
                wanted += binom.pmf(differing, n, disagreeing) * binom.pmf(won, differing, favouring)
    assert power(n, disagreeing, favouring, alpha) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize(
    ("gains", "losses", "n", "alpha"), [(14, 7, 80, 0.05), (5, 0, 40, 0.05), (40, 30, 121, 0.05), (9, 4, 60, 0.01)]
)
def test_with_so_many_leaves_four_of_five_trials_tell(gains: int, losses: int, n: int, alpha: float) -> None:
    leaves = sample_size(gains, losses, n, alpha)
    assert leaves is not None
    assert leaves > n, "these counts did not tell the models apart"
    assert mcnemar(np.arange(n) < losses, (np.arange(n) >= losses) & (np.arange(n) < losses + gains)).p_value >= alpha
    random, told, trials = np.random.default_rng(0), 0, 2500
    shares = [gains / n, losses / n, 1 - (gains + losses) / n]
    drawn = Counter((int(won), int(lost)) for won, lost, _ in random.multinomial(leaves, shares, size=trials))
    for (won, lost), times in drawn.items():
        told += times * (won > lost and binomtest(lost, won + lost).pvalue < alpha)
    assert told / trials == pytest.approx(0.8, abs=0.025)
    assert power(leaves, (gains + losses) / n, gains / (gains + losses), alpha) >= 0.8
    assert sample_size(losses, gains, n, alpha) == leaves


def test_it_is_a_little_more_than_the_usual_approximation() -> None:
    share, d = 0.25, 0.05
    usual = ((Z * math.sqrt(share) + float(norm.ppf(0.8)) * math.sqrt(share - d * d)) / d) ** 2
    needed = sample_size(300, 200, 2000)
    assert needed is not None
    assert usual < needed < 1.1 * usual


def test_no_number_tells_a_difference_of_zero() -> None:
    assert sample_size(0, 0, 50) is None
    assert sample_size(7, 7, 50) is None


def test_a_tiny_difference_needs_very_many_leaves() -> None:
    needed = sample_size(501, 500, 10_000)
    assert needed is not None
    assert 70_000_000 < needed < 90_000_000
    by_formula = sample_size(205, 200, 2500)
    assert by_formula is not None
    assert by_formula > 100_000
    assert power(by_formula, 405 / 2500, 205 / 405, 0.05) == pytest.approx(0.8, abs=0.01)

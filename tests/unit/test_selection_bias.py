"""Selection bias: the simulation against closed forms, tables and scipy's Dunnett test."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tests.unit.synthetic_searches import synthetic_search
from ufgvc.evaluation.selection_bias import (
    DRAWS,
    SeedVariance,
    best_gains,
    expected_maximum,
    seed_variance,
    selection_bias,
)

# Of n standard normal numbers: closed forms, then the table of Teichroew (1956).
EXPECTED = {
    1: 0.0, 2: 1 / math.sqrt(math.pi), 3: 1.5 / math.sqrt(math.pi), 4: 1.0293753730, 5: 1.1629644736, 10: 1.5387527308,
    20: 1.8674750598,
}  # fmt: skip


def p_of(t: float, n: int, trainings: int, dof: float) -> float:
    """The share of simulated gains of at least t measured standard deviations."""
    return float((best_gains(SeedVariance(0.6, 0.01, trainings, dof), n) >= 0.01 * t).mean())


def error(p: float) -> float:
    """Four standard errors of a simulated share."""
    return 4 * math.sqrt(max(p * (1 - p), 1e-4) / DRAWS)


@pytest.mark.parametrize("n", EXPECTED)
def test_expected_maximum_against_the_tables(n: int) -> None:
    assert expected_maximum(n) == pytest.approx(EXPECTED[n], abs=4 / math.sqrt(DRAWS))


@pytest.mark.parametrize("n", [7, 50, 200, 5000])
def test_expected_maximum_against_the_integral(n: int) -> None:
    """The mean of the maximum is the integral of 1 - F^n above 0 minus that of F^n below."""
    x = np.linspace(0, 12, 200_001)
    reference = np.trapezoid(1 - stats.norm.cdf(x) ** n - stats.norm.cdf(-x) ** n, x)
    assert expected_maximum(n) == pytest.approx(float(reference), abs=4 / math.sqrt(DRAWS))


def test_one_setting_against_one_training_is_normal() -> None:
    # The difference of the two has twice the variance.
    for t in (0.0, 1.5):
        expected = stats.norm.sf(t / math.sqrt(2))
        assert p_of(t, 1, 1, math.inf) == pytest.approx(expected, abs=error(expected))


@pytest.mark.parametrize("trainings", [2, 3, 4, 9])
@pytest.mark.parametrize("t", [-1.0, 0.5, 2.0, 6.0])
def test_one_setting_is_students_prediction(trainings: int, t: float) -> None:
    expected = stats.t.sf(t / math.sqrt(1 + 1 / trainings), trainings - 1)
    assert p_of(t, 1, trainings, trainings - 1) == pytest.approx(expected, abs=error(expected))


def test_many_settings_are_dunnetts_test() -> None:
    control, best = np.array([0.60, 0.62, 0.61, 0.63]), 0.66
    others = [np.array([score]) for score in (0.6, 0.61, 0.59, 0.62, best)]
    found = stats.dunnett(*others, control=control, alternative="greater", rng=np.random.default_rng(0))
    t = (best - control.mean()) / control.std(ddof=1)
    assert p_of(t, 5, 4, 3) == pytest.approx(found.pvalue[-1], abs=error(found.pvalue[-1]))


@pytest.mark.parametrize(("n", "trainings"), [(12, 3), (30, 6)])
def test_p_is_uniform_over_searches_of_equal_settings(n: int, trainings: int) -> None:
    """Searches simulated score by score: p is below 0.05 in 5 % of them."""
    random, searches = np.random.default_rng(1), 40_000
    best = random.normal(size=(searches, n)).max(axis=1)
    paper = random.normal(size=(searches, trainings))
    gains = (best - paper.mean(axis=1)) / paper.std(axis=1, ddof=1)
    simulated = best_gains(SeedVariance(0.0, 1.0, trainings, trainings - 1), n)
    for p in (0.05, 0.3):
        assert (gains >= np.quantile(simulated, 1 - p)).mean() == pytest.approx(p, abs=2 * error(p))


def test_fewer_trainings_give_a_larger_p() -> None:
    p_values = [p_of(3.0, 20, trainings, dof) for trainings, dof in ((2, 1), (4, 3), (20, 19), (10_000, math.inf))]
    assert p_values == sorted(p_values, reverse=True)
    assert p_values[-1] == pytest.approx(1 - stats.norm.cdf(3.0) ** 20, abs=error(0.03))


def test_the_variance_is_measured_from_repeats_else_binomial() -> None:
    found = seed_variance([0.60, 0.62, 0.64], 100)
    assert (found.mean, found.sd, found.dof, found.measured) == (pytest.approx(0.62), pytest.approx(0.02), 2, True)
    assert found.sd_interval() == pytest.approx(
        [0.02 * math.sqrt(2 / stats.chi2.ppf(quantile, 2)) for quantile in (0.975, 0.025)]
    )
    for scores in ([0.7], [0.7, 0.7, 0.7]):
        binomial = seed_variance(scores, 240)
        assert not binomial.measured
        assert binomial.sd_interval() is None
        assert binomial.sd == pytest.approx(math.sqrt(0.7 * 0.3 / 240), rel=0.01)
    assert seed_variance([1.0], 20).sd > 0


def test_selection_bias_of_a_search_by_hand() -> None:
    record = synthetic_search(12)
    scores = {trial.number: trial.score for trial in record.trials if trial.score is not None}
    paper = [score for number, score in scores.items() if number == 0 or number >= 12]
    others = [score for number, score in scores.items() if 0 < number < 12]
    found = selection_bias(record)
    assert found is not None
    assert len(paper) == 4
    assert found.settings == len(others) + 1  # trial 0 is a candidate, its repeats are not
    assert found.gain == pytest.approx(max(*others, scores[0]) - np.mean(paper))
    sd = np.std(paper, ddof=1)
    assert found.expected == pytest.approx(sd * expected_maximum(found.settings))
    assert found.p == pytest.approx(p_of(found.gain / sd, found.settings, 4, 3), abs=2e-4)
    assert found == selection_bias(record), "the simulation has a fixed seed"


def test_no_selection_bias_without_the_papers_setting() -> None:
    record = synthetic_search(12, repeats=0)
    failed = replace(record.trials[0], state="failed", curve=())
    assert selection_bias(replace(record, trials=(failed, *record.trials[1:]))) is None
    assert selection_bias(replace(record, trials=())) is None

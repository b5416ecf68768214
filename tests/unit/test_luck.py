"""The luck of the highest of n scores: the formula's values, simulation, and Dunnett's comparison as scipy has it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from tests.unit.search_stories import made_up
from ufgvc.evaluation import selection_bias as lucky
from ufgvc.evaluation.selection_bias import chance_of_best, expected_maximum, noise_of, quantile_of_best

# Of n standard normal numbers: closed forms, then the table of Teichroew (1956).
KNOWN = {
    1: 0.0, 2: 1 / math.sqrt(math.pi), 3: 1.5 / math.sqrt(math.pi), 4: 1.0293753730, 5: 1.1629644736, 10: 1.5387527308, 20: 1.8674750598,
}  # fmt: skip


@pytest.mark.parametrize("n", KNOWN)
def test_expected_maximum_by_the_book(n: int) -> None:
    assert expected_maximum(n) == pytest.approx(KNOWN[n], abs=1e-9)


@pytest.mark.parametrize("n", [7, 50, 200, 5000])
def test_expected_maximum_by_the_sum_over_the_distribution(n: int) -> None:
    """The mean of the largest is the integral of 1 - F^n above 0 less that of F^n below."""
    x = np.linspace(0, 12, 200_001)
    reference = np.trapezoid(1 - stats.norm.cdf(x) ** n - stats.norm.cdf(-x) ** n, x)
    assert expected_maximum(n) == pytest.approx(float(reference), abs=1e-8)


def test_one_equal_setting_against_one_training_wins_half_of_the_time() -> None:
    assert chance_of_best(0.0, 1, 1, math.inf) == pytest.approx(0.5)
    # Their difference has twice the variance.
    assert chance_of_best(1.5, 1, 1, math.inf) == pytest.approx(stats.norm.sf(1.5 / math.sqrt(2)), abs=1e-6)


@pytest.mark.parametrize("trainings", [2, 3, 4, 9])
@pytest.mark.parametrize("t", [-1.0, 0.5, 2.0, 6.0])
def test_one_setting_is_students_prediction(trainings: int, t: float) -> None:
    reference = stats.t.sf(t / math.sqrt(1 + 1 / trainings), trainings - 1)
    assert chance_of_best(t, 1, trainings, trainings - 1) == pytest.approx(reference, abs=2e-5)


def test_many_settings_are_dunnetts_comparison() -> None:
    """scipy's p of the largest is the same chance, by quasi-random integration."""
    control, best = np.array([0.60, 0.62, 0.61, 0.63]), 0.66
    found = stats.dunnett(*[np.array([score]) for score in (0.6, 0.61, 0.59, 0.62, best)], control=control, alternative="greater",
                          rng=np.random.default_rng(0))  # fmt: skip
    t = (best - control.mean()) / control.std(ddof=1)
    assert chance_of_best(t, 5, 4, 3) == pytest.approx(found.pvalue[-1], abs=2e-3)


@pytest.mark.parametrize(("n", "trainings"), [(12, 3), (30, 6)])
def test_the_chance_by_simulation(n: int, trainings: int) -> None:
    """Searches among equal settings, each judged by its own few trainings: p below 0.05 in 5 of 100."""
    random = np.random.default_rng(1)
    searches = 40_000
    best = random.normal(size=(searches, n)).max(axis=1)
    paper = random.normal(size=(searches, trainings))
    gains = (best - paper.mean(axis=1)) / paper.std(axis=1, ddof=1)
    for chance in (0.05, 0.3):
        t = quantile_of_best(1 - chance, n, trainings, trainings - 1)
        assert chance_of_best(t, n, trainings, trainings - 1) == pytest.approx(chance, abs=1e-6)
        assert (gains >= t).mean() == pytest.approx(chance, abs=4 * math.sqrt(chance / searches))


def test_few_trainings_make_one_careful() -> None:
    chances = [chance_of_best(3.0, 20, m, f) for m, f in ((2, 1), (4, 3), (20, 19), (10_000, math.inf))]
    assert chances == sorted(chances, reverse=True)
    assert chances[-1] == pytest.approx(1 - stats.norm.cdf(3.0) ** 20, abs=2e-4)


def test_noise_is_measured_where_it_can_be() -> None:
    found = noise_of([0.60, 0.62, 0.64], 100)
    assert (found.mean, found.sd, found.freedom, found.measured) == (pytest.approx(0.62), pytest.approx(0.02), 2, True)
    low, high = found.sd_interval()
    assert (low, high) == (
        pytest.approx(0.02 * math.sqrt(2 / stats.chi2.ppf(0.975, 2))),
        pytest.approx(0.02 * math.sqrt(2 / stats.chi2.ppf(0.025, 2))),
    )
    for scores in ([0.7], [0.7, 0.7, 0.7]):
        guessed = noise_of(scores, 240)
        assert not guessed.measured
        assert guessed.sd_interval() is None
        assert guessed.sd == pytest.approx(math.sqrt(0.7 * 0.3 / 240), rel=0.01)
    assert noise_of([1.0], 20).sd > 0


def test_luck_of_a_search_by_hand() -> None:
    story = made_up(12)
    scores = {trial.number: trial.score for trial in story.trials if trial.score is not None}
    paper = [score for number, score in scores.items() if number == 0 or number >= 12]
    others = [score for number, score in scores.items() if 0 < number < 12]
    found = lucky.selection_bias(story)
    assert found is not None
    assert len(paper) == 4
    assert found.settings == len(others) + 1  # trial 0 is in the race, its repeats are not
    assert found.gain == pytest.approx(max(*others, scores[0]) - np.mean(paper))
    sd = np.std(paper, ddof=1)
    assert found.expected == pytest.approx(sd * expected_maximum(found.settings))
    assert found.p == chance_of_best(found.gain / sd, found.settings, 4, 3)


def test_no_luck_without_the_papers_setting() -> None:
    story = made_up(12, repeats=0)
    lost = replace(story.trials[0], state="failed", curve=())
    assert lucky.selection_bias(replace(story, trials=(lost, *story.trials[1:]))) is None
    assert lucky.selection_bias(replace(story, trials=())) is None

"""How much of a search's gain is luck: what the best of as many equally good settings would have gained.

A score moves when nothing but the seed does. Whoever takes the highest of n scores therefore takes a lucky one: of n equal settings
with normal scores the best lies expected_maximum(n) standard deviations above them all. Two simplifications, which the page tells:
n counts the complete trials only, though stopped ones were in the race for some epochs; and scores are k of n leaves, not normal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri, roots_legendre
from scipy.stats import chi, chi2, norm

from ufgvc.evaluation.search_record import SearchRecord, TrialResult
from ufgvc.evaluation.stats import Floats


@dataclass(frozen=True)
class SeedVariance:
    """The scores of one setting, trained again and again, as shares in [0, 1].

    trainings: how many scores the mean is of.  freedom: of the standard deviation; infinite where it is not measured but that of k
    right of n leaves which err independently of each other.
    """

    mean: float
    sd: float
    trainings: int
    freedom: float

    @property
    def measured(self) -> bool:
        return math.isfinite(self.freedom)

    def sd_interval(self) -> tuple[float, float] | None:
        """95 % interval of the standard deviation (chi-square); None where it was not measured."""
        if not self.measured:
            return None
        low, high = chi2.ppf([0.975, 0.025], self.freedom)
        return float(self.sd * math.sqrt(self.freedom / low)), float(self.sd * math.sqrt(self.freedom / high))


@dataclass(frozen=True)
class SelectionBias:
    """settings: complete trials, the paper's among them.  gain: of the best over the paper's mean.  expected: what the best of as many
    equal settings would gain.  p: the chance that the best of them gains as much as `gain`. Shares in [0, 1].
    """

    noise: SeedVariance
    settings: int
    gain: float
    expected: float
    p: float


def selection_bias(story: SearchRecord) -> SelectionBias | None:
    """None if no trial completed, or none of the paper's setting."""
    noise, entered = paper_noise(story), contenders(story)
    if noise is None or not entered:
        return None
    gain = max(trial.curve[-1] for trial in entered) - noise.mean
    p = chance_of_best(gain / noise.sd, len(entered), noise.trainings, noise.freedom)
    return SelectionBias(noise, len(entered), gain, noise.sd * expected_maximum(len(entered)), p)


def contenders(story: SearchRecord) -> list[TrialResult]:
    """The trials that could win: all epochs, and no repeat of the paper's setting."""
    return [trial for trial in story.trials if trial.score is not None and not trial.repeat]


def paper_noise(story: SearchRecord) -> SeedVariance | None:
    """From trial 0 and its repeats; None if none of them completed."""
    scores = [trial.score for trial in story.trials if (trial.repeat or trial.number == 0) and trial.score is not None]
    return noise_of(scores, story.leaves) if scores else None


def noise_of(scores: Sequence[float], leaves: int) -> SeedVariance:
    """Their own standard deviation; from one score, or from equal ones, the binomial's (with one leaf more right and one wrong, so that
    it is never 0)."""
    mean, sd = float(np.mean(scores)), float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0
    # Equal scores differ by rounding only.
    if sd > 1e-9:
        return SeedVariance(mean, sd, len(scores), len(scores) - 1)
    share = (mean * leaves + 1) / (leaves + 2)
    return SeedVariance(mean, math.sqrt(share * (1 - share) / leaves), len(scores), math.inf)


@lru_cache(maxsize=1024)
def expected_maximum(n: int) -> float:
    """Mean of the largest of n independent standard normal numbers: the integral of x times its density n phi(x) Phi(x)^(n-1)."""
    return float(
        quad(lambda x: x * n * _density(x) * ndtr(x) ** (n - 1), -12, 12, points=[0, norm.isf(1 / (n + 1))])[0]
    )


def chance_of_best(t: float, n: int, trainings: int, freedom: float) -> float:
    """The chance that the best of n equal settings lies t or more standard deviations above the mean of the paper's trainings.

    That mean and that deviation are estimates themselves, so the chance is averaged over where the true ones may lie, as in Dunnett's
    comparison of many with one control: right for normal scores, however few the trainings.
    """
    return min(1.0, max(0.0, 1 - _none_reaches(t, n, trainings, freedom)))


def quantile_of_best(q: float, n: int, trainings: int, freedom: float) -> float:
    """The t that the best of n equal settings stays below with probability q."""
    return float(brentq(lambda t: _none_reaches(t, n, trainings, freedom) - q, -1e4, 1e4, xtol=1e-6))


def _none_reaches(t: float, n: int, trainings: int, freedom: float) -> float:
    """Both integrals run over the quantiles of the mean (rows) and of the deviation (columns), by Gauss and Legendre."""
    nodes, weights = _quadrature()
    mean = ndtri(nodes)[:, None] / math.sqrt(trainings)
    return float(weights @ ndtr(mean + t * _deviations(freedom)) ** n @ weights)


@lru_cache(maxsize=1)
def _quadrature() -> tuple[Floats, Floats]:
    nodes, weights = roots_legendre(64)
    return (nodes + 1) / 2, weights / 2


@lru_cache(maxsize=16)
def _deviations(freedom: float) -> Floats:
    """Quantiles of the measured standard deviation, as shares of the true one."""
    nodes, _ = _quadrature()
    return np.ones_like(nodes) if math.isinf(freedom) else chi.ppf(nodes, freedom) / math.sqrt(freedom)


def _density(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)

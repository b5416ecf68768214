"""Selection bias of a search (the winner's curse): the gain that the best of n equally good settings would show.

Scores vary with the seed, so the maximum of n scores is biased upwards. The bias is simulated for n settings that are
all as good as the paper's, with normally distributed scores. Two approximations: n counts complete trials only, though
stopped ones took part for some epochs; and a score is a count of correct leaves, which is not exactly normal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri
from scipy.stats import chi2

from ufgvc.evaluation.bootstrap import Floats
from ufgvc.evaluation.search_record import SearchRecord

DRAWS = 20_000


@dataclass(frozen=True)
class SeedVariance:
    """Scores in [0, 1] of one setting trained with different seeds: their mean and standard deviation.

    trainings: the number of scores.  dof: degrees of freedom of `sd`; infinite where it was not measured and the
    binomial standard deviation of a count of correct leaves is used instead.
    """

    mean: float
    sd: float
    trainings: int
    dof: float

    @property
    def measured(self) -> bool:
        """Whether `sd` was estimated from repeated trainings."""
        return math.isfinite(self.dof)

    def sd_interval(self) -> tuple[float, float] | None:
        """95 % interval of the standard deviation (chi-square); None if it was not measured."""
        if not self.measured:
            return None
        low, high = chi2.ppf([0.975, 0.025], self.dof)
        return float(self.sd * math.sqrt(self.dof / low)), float(self.sd * math.sqrt(self.dof / high))


@dataclass(frozen=True)
class SelectionBias:
    """All in units of accuracy.  settings: number of complete trials, the paper's included.

    gain: score of the best trial minus the mean score of the paper's setting.  expected: the expected gain of the best
    of as many equally good settings.  p: probability that the best of them gains at least `gain`.
    """

    seeds: SeedVariance
    settings: int
    gain: float
    expected: float
    p: float


def selection_bias(record: SearchRecord) -> SelectionBias | None:
    """None if no trial completed, or none with the paper's setting."""
    paper = [trial.score for trial in record.trials if (trial.repeat or trial.number == 0) and trial.score is not None]
    candidates = record.candidates
    if not paper or not candidates:
        return None
    seeds, n = seed_variance(paper, record.leaves), len(candidates)
    gain = max(trial.curve[-1] for trial in candidates) - seeds.mean
    reached = np.count_nonzero(best_gains(seeds, n) >= gain)
    return SelectionBias(seeds, n, gain, seeds.sd * expected_maximum(n), (reached + 1) / (DRAWS + 1))


def seed_variance(scores: Sequence[float], leaves: int) -> SeedVariance:
    """Sample mean and standard deviation of the scores (at least one), each a share of `leaves`.

    From one score, or equal ones: the binomial standard deviation, with one more correct and one more wrong leaf so
    that it is never 0.
    """
    mean, sd = float(np.mean(scores)), float(np.std(scores, ddof=1)) if len(scores) > 1 else 0.0
    if sd > 1e-9:  # equal scores differ by rounding only
        return SeedVariance(mean, sd, len(scores), len(scores) - 1)
    share = (mean * leaves + 1) / (leaves + 2)
    return SeedVariance(mean, math.sqrt(share * (1 - share) / leaves), len(scores), math.inf)


def best_gains(seeds: SeedVariance, n: int) -> Floats:
    """(DRAWS,) simulated gains of the best of n equal settings over the mean of `seeds`.

    That mean and the standard deviation are estimates, so both are drawn too: for p this is Dunnett's comparison of n
    settings with one control, exact for normal scores however few the trainings.
    """
    rng = np.random.default_rng(0)
    gains = _maxima(rng, n) - rng.standard_normal(DRAWS) / math.sqrt(seeds.trainings)
    if seeds.measured:
        gains /= np.sqrt(rng.chisquare(seeds.dof, DRAWS) / seeds.dof)
    return seeds.sd * gains


def expected_maximum(n: int) -> float:
    """Mean of the largest of n independent standard normal numbers (simulated)."""
    return float(_maxima(np.random.default_rng(0), n).mean())


def _maxima(rng: np.random.Generator, n: int) -> Floats:
    """(DRAWS,) the largest of n standard normal numbers, by the inverse of its distribution function Phi(x)^n."""
    return ndtri(rng.random(DRAWS) ** (1 / n))

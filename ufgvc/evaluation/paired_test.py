"""Two models on the same n images: McNemar's test, Tango's interval, and the sample size for significance.

gains, losses: images that only the second, only the first model classifies correctly. The difference of the accuracies
is (gains - losses) / n, in [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binom, binomtest, norm

Outcome = Literal["better", "worse", "undecided"]
POWER = 0.8
_APPROXIMATE_FROM = 100_000  # images from which the approximation is as good as the exact sum
_TAIL = 8.0  # standard deviations of the number of discordant images that the power sums over


@dataclass(frozen=True)
class McNemar:
    """Two models on the same images.

    only_first, only_second: images that only that model classifies correctly.  p_value: exact, two-sided.
    """

    only_first: int
    only_second: int
    p_value: float


@dataclass(frozen=True)
class PairedComparison:
    """Champion (first) and challenger (second) on the same n images.

    difference: accuracy of the challenger minus that of the champion, with its 95 % interval low to high.  p: exact,
    two-sided, compared with alpha.  needed: images with which such a difference would be significant with power 80 %;
    None if it is significant, or zero.
    """

    n: int
    gains: int
    losses: int
    alpha: float
    p: float
    difference: float
    low: float
    high: float
    needed: int | None

    @property
    def outcome(self) -> Outcome:
        """Whether the challenger is significantly better, significantly worse, or neither."""
        if self.p >= self.alpha:
            return "undecided"
        return "better" if self.gains > self.losses else "worse"


@dataclass(frozen=True)
class CultivarChange:
    """Images of a class, and how many of them each model classifies correctly.  champion: None if there is none."""

    cultivar: str
    leaves: int
    champion: int | None
    challenger: int

    @property
    def change(self) -> int:
        """Correct images of the challenger minus those of the champion; 0 without a champion."""
        return 0 if self.champion is None else self.challenger - self.champion


def mcnemar(first_right: NDArray[np.bool_], second_right: NDArray[np.bool_]) -> McNemar:
    """Exact McNemar test: the binomial test of the images that exactly one model classifies correctly.

    Both arrays (N,) are of the same images in the same order. Without such images p is 1. ValueError if their lengths
    differ.
    """
    if first_right.shape != second_right.shape:
        raise ValueError(f"not the same leaves: {first_right.shape} and {second_right.shape}")
    only_first = int((first_right & ~second_right).sum())
    only_second = int((~first_right & second_right).sum())
    discordant = only_first + only_second
    p_value = float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return McNemar(only_first, only_second, p_value)


def compare_paired(
    champion_right: NDArray[np.bool_], challenger_right: NDArray[np.bool_], alpha: float
) -> PairedComparison:
    """The comparison at the significance level alpha. Both arrays (N,) are of the same images in the same order."""
    test = mcnemar(champion_right, challenger_right)
    n, gains, losses = len(champion_right), test.only_second, test.only_first
    low, high = paired_interval(gains, losses, n)
    needed = sample_size(gains, losses, n, alpha) if test.p_value >= alpha else None
    return PairedComparison(n, gains, losses, alpha, test.p_value, (gains - losses) / n, low, high, needed)


def changes_by_cultivar(
    classes: Sequence[str],
    label: NDArray[np.int64],
    champion_right: NDArray[np.bool_] | None,
    challenger_right: NDArray[np.bool_],
) -> list[CultivarChange]:
    """One entry for each class with images, by falling change, equal ones in label order. Arrays (N,)."""

    def count(which: NDArray[np.bool_]) -> list[int]:
        return [int(k) for k in np.bincount(label[which], minlength=len(classes))]

    images, new = count(np.ones_like(challenger_right)), count(challenger_right)
    old = count(champion_right) if champion_right is not None else [None] * len(classes)
    rows = [CultivarChange(*row) for row in zip(classes, images, old, new, strict=True) if row[1]]
    return sorted(rows, key=lambda row: -row.change)


def paired_interval(gains: int, losses: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Bounds of the difference by Tango's score interval (Statistics in Medicine 17, 1998, 891-908).

    Never of width zero and never outside [-1, 1], also without discordant images. ValueError for impossible counts.
    """
    if gains < 0 or losses < 0 or n < 1 or gains + losses > n:
        raise ValueError(f"{gains} and {losses} of {n} leaves")
    z = float(norm.isf((1 - confidence) / 2))
    return -_upper_bound(losses, gains, n, z), _upper_bound(gains, losses, n, z)


def _upper_bound(gains: int, losses: int, n: int, z: float) -> float:
    """The largest difference that the score test does not reject. The lower bound is that of the swapped models."""
    if gains == n:
        return 1.0
    if gains == 0 and losses in (0, n):  # the variance is zero at the observed point, where the search below would stop
        return z * z / (n + z * z) if losses == 0 else (z * z - n) / (z * z + n)

    def statistic(difference: float) -> float:
        # 2 n q^2 + b q + c = 0: the maximum likelihood share q of losses under this difference
        b = -gains - losses + (2 * n - gains + losses) * difference
        c = -losses * difference * (1 - difference)
        q = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
        variance = max(0.0, 2 * q + difference * (1 - difference))
        return n * difference - (gains - losses) - z * math.sqrt(n * variance)

    return float(brentq(statistic, (gains - losses) / n, 1.0, xtol=1e-12))


def power(n: int, discordant: float, favouring: float, alpha: float) -> float:
    """Probability that the exact two-sided McNemar test on n images finds p < alpha and the better model better.

    discordant: share of images that exactly one model classifies correctly.  favouring: of those, the share of the
    better model.
    """
    mean, spread = n * discordant, math.sqrt(n * discordant * (1 - discordant))
    start, stop = max(0, math.floor(mean - _TAIL * spread - 1)), min(n, math.ceil(mean + _TAIL * spread + 1))
    counts = np.arange(start, stop + 1)
    allowed = binom.ppf(alpha / 2, counts, 0.5) - 1  # the most discordant images that the better model may lose
    won = np.where(allowed >= 0, binom.cdf(allowed, counts, 1 - favouring), 0.0)
    return float(binom.pmf(counts, n, discordant) @ won)


def sample_size(gains: int, losses: int, n: int, alpha: float = 0.05, wanted: float = POWER) -> int | None:
    """Images with which the exact McNemar test has the wanted power, if the observed shares are the true ones.

    None where gains equal losses. Starts from the approximation of Connor (1987), which is slightly too small.
    """
    if gains == losses:
        return None
    discordant, favouring = (gains + losses) / n, max(gains, losses) / (gains + losses)
    difference = discordant * (2 * favouring - 1)
    z = float(norm.isf(alpha / 2)) * math.sqrt(discordant)
    z += float(norm.ppf(wanted)) * math.sqrt(max(0.0, discordant - difference**2))
    high = max(2, math.ceil((z / difference) ** 2))
    if high > _APPROXIMATE_FROM:
        return high
    while power(high, discordant, favouring, alpha) < wanted:
        high *= 2
    low = high // 4
    while high - low > 1:
        middle = (low + high) // 2
        if power(middle, discordant, favouring, alpha) < wanted:
            low = middle
        else:
            high = middle
    return high

"""Two models on the same n leaves: the interval of their difference, and how many leaves would tell them apart.

gains, losses: leaves that only the second, only the first model named rightly. The difference is (gains - losses) / n, in [-1, 1].
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binom, norm

POWER = 0.8
_MANY = 100_000  # leaves from which the approximation is as good as the exact sum
_TAIL = 8.0  # standard deviations of the number of disagreements that the power sums over


def paired_interval(gains: int, losses: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Bounds of the difference by Tango's score interval (Statistics in Medicine 17, 1998, 891-908).

    Never of width zero and never outside [-1, 1], however few leaves told the models apart. ValueError for counts that cannot be.
    """
    if gains < 0 or losses < 0 or n < 1 or gains + losses > n:
        raise ValueError(f"{gains} and {losses} of {n} leaves")
    z = float(norm.isf((1 - confidence) / 2))
    return -_upper(losses, gains, n, z), _upper(gains, losses, n, z)


def _upper(gains: int, losses: int, n: int, z: float) -> float:
    """The largest difference that the score test does not reject. The lower bound is the same with the models swapped."""
    if gains == n:
        return 1.0
    if gains == 0 and losses in (0, n):  # no variance at the observed point: the search below would stop right there
        return z * z / (n + z * z) if losses == 0 else (z * z - n) / (z * z + n)

    def beyond(difference: float) -> float:
        # 2 n q^2 + b q + c = 0: the likeliest share of leaves that only the first names rightly, if this were the difference
        b = -gains - losses + (2 * n - gains + losses) * difference
        c = -losses * difference * (1 - difference)
        q = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
        variance = max(0.0, 2 * q + difference * (1 - difference))
        return n * difference - (gains - losses) - z * math.sqrt(n * variance)

    return float(brentq(beyond, (gains - losses) / n, 1.0, xtol=1e-12))


def power(n: int, disagreeing: float, favouring: float, alpha: float) -> float:
    """Chance that the exact two-sided McNemar test on n leaves finds p < alpha and the better model better.

    disagreeing: share of leaves on which exactly one model is right.  favouring: share of those on which it is the better one.
    """
    middle, spread = n * disagreeing, math.sqrt(n * disagreeing * (1 - disagreeing))
    start, stop = max(0, math.floor(middle - _TAIL * spread - 1)), min(n, math.ceil(middle + _TAIL * spread + 1))
    differing = np.arange(start, stop + 1)
    allowed = binom.ppf(alpha / 2, differing, 0.5) - 1  # the most disagreements the better model may lose
    won = np.where(allowed >= 0, binom.cdf(allowed, differing, 1 - favouring), 0.0)
    return float(binom.pmf(differing, n, disagreeing) @ won)


def leaves_needed(gains: int, losses: int, n: int, alpha: float = 0.05, wanted: float = POWER) -> int | None:
    """Test leaves with which the exact McNemar test would have the wanted power, if the shares observed on n leaves were the true ones.

    None where gains and losses are equal: no number of leaves tells a difference of zero.
    """
    if gains == losses:
        return None
    disagreeing, favouring = (gains + losses) / n, max(gains, losses) / (gains + losses)
    difference = disagreeing * (2 * favouring - 1)
    z = float(norm.isf(alpha / 2)) * math.sqrt(disagreeing)
    z += float(norm.ppf(wanted)) * math.sqrt(max(0.0, disagreeing - difference**2))
    # The usual approximation (Connor 1987) is a little below what the exact test needs, and where the search starts.
    high = max(2, math.ceil((z / difference) ** 2))
    if high > _MANY:
        return high
    while power(high, disagreeing, favouring, alpha) < wanted:
        high *= 2
    low = high // 4
    while high - low > 1:
        middle = (low + high) // 2
        if power(middle, disagreeing, favouring, alpha) < wanted:
            low = middle
        else:
            high = middle
    return high

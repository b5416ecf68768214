"""Accuracies of leaves that are not independent, with intervals that are never empty."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ufgvc.evaluation.bootstrap import Estimate

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Z = 1.959964  # of the normal distribution, for 95 %


def effective_leaves(units: Ints) -> float:
    """Kish's effective number of leaves (1965), (sum n)^2 / sum n^2 over the units' sizes n: as if the leaves of a unit
    were all right or all wrong together. units: (N,) ids.
    """
    sizes = np.unique(units, return_counts=True)[1].astype(float)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def accuracy(right: Floats, units: Ints) -> Estimate:
    """The mean of right (N,) in [0, 1] with Wilson's 95 % interval for `effective_leaves`.

    A percentile bootstrap would give an interval of length 0 where all leaves are right. ValueError without leaves.
    """
    if not len(right):
        raise ValueError("an accuracy of no leaves does not exist")
    return wilson(float(np.mean(right)), effective_leaves(units))


def wilson(value: float, count: float) -> Estimate:
    """A share of `count` (not necessarily whole) observations with its Wilson score interval of 95 %."""
    middle = (value + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * math.sqrt(value * (1 - value) / count + Z**2 / (4 * count**2))
    return Estimate(value, max(0.0, middle - half), min(1.0, middle + half))

"""How accuracy grows with the training leaves of a cultivar, measured on fewer and carried on to twice as many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ufgvc.evaluation.audit.folds import Fit, predict_out_of_fold
from ufgvc.evaluation.audit.intervals import accuracy
from ufgvc.evaluation.bootstrap import Difference, Estimate, paired_group_bootstrap, resampled_group_means

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
LAST = 3  # points that the power law is fitted to
RESAMPLES = 2000


@dataclass(frozen=True)
class Point:
    """most: training leaves of each cultivar, at most.  leaves: their mean number.  found: accuracy out of fold."""

    most: int
    leaves: float
    found: Estimate


@dataclass(frozen=True)
class Growth:
    """A learning curve.

    points: by growing number of leaves.  last_gain: accuracy of the last point minus that of the one before, on the
    same leaves.  doubled: accuracy at `doubled_leaves`, twice the last point's, by a power law of the error; None
    without two points.
    """

    points: tuple[Point, ...]
    last_gain: Difference | None = None
    doubled: Estimate | None = None
    doubled_leaves: float = 0.0


def grow(features: Floats, labels: Ints, folds: Sequence[Ints], units: Ints, fit: Fit, seed: int) -> Growth:
    """The learning curve: the same leaves are held out at every size, and those to train on are drawn at random.

    Sizes are 1, 2, 4, ... leaves of each cultivar (of one that has fewer, all), as long as half of the cultivars have
    as many; then all leaves. Nothing is drawn from the units of held leaves.
    """
    rng = np.random.default_rng(seed)
    counts = np.bincount(labels)
    available = np.median(counts[counts > 0]) * (1 - 1 / (max(int(numbers.max()) for numbers in folds) + 1))
    sizes = [2**power for power in range(20) if 2**power <= available] or [1]
    points: list[tuple[int, float]] = []
    rights: list[Floats] = []
    held = np.ones(len(labels), bool)
    for size in [*sizes, int(counts.max())]:
        used: list[float] = []

        def fit_some(features: Floats, labels: Ints, units: Ints, size: int = size, used: list[float] = used) -> object:
            order = rng.permutation(len(labels))
            places = np.concatenate([order[labels[order] == label][:size] for label in np.unique(labels)])
            used.append(len(places) / len(np.unique(labels)))
            return fit(features[places], labels[places], units[places])

        found = predict_out_of_fold(features, labels, folds, units, fit_some)
        if points and np.mean(used) < 1.2 * points[-1][1]:  # all leaves are hardly more than the last size
            points.pop()
            rights.pop()
        points.append((size, float(np.mean(used))))
        rights.append(found.right)
        held &= found.held
    values, unit = np.stack(rights)[:, held], units[held]
    made = [Point(*point, accuracy(right, unit)) for point, right in zip(points, values, strict=True)]
    if len(made) < 2 or len(np.unique(unit)) < 2:
        return Growth(tuple(made))
    gain = paired_group_bootstrap(values[-1], values[-2], unit)
    leaves = np.array([point.leaves for point in made])
    return Growth(tuple(made), gain, carry_on(values, leaves, unit, seed), 2 * float(leaves[-1]))


def carry_on(values: Floats, leaves: Floats, units: Ints, seed: int) -> Estimate:
    """Accuracy at twice the last number of leaves, with the 95 % interval of a bootstrap over units.

    A power law, error = a * leaves ** -b with b >= 0, through the last LAST points (Cortes et al. 1993) by least
    squares of logarithms. values: (S, N) right of N leaves at S sizes.  leaves: (S,). The law has no floor: leaves that
    nobody can name are not foreseen, so it is rather too high.
    """
    least = 0.5 / values.shape[1]  # an error of 0 has no logarithm
    chosen = slice(-min(LAST, len(leaves)), None)
    x = np.log(leaves[chosen])

    def at_double(means: Floats) -> Floats:
        y = np.log(np.maximum(1 - means[:, chosen], least))
        slope = ((x - x.mean()) * (y - y.mean(axis=1, keepdims=True))).sum(axis=1) / ((x - x.mean()) ** 2).sum()
        logs = y.mean(axis=1) + np.minimum(slope, 0) * (np.log(2 * leaves[-1]) - x.mean())
        return np.asarray(1 - np.exp(np.minimum(logs, 0)))

    resampled = at_double(resampled_group_means(values.T, units, RESAMPLES, seed))
    low, high = np.quantile(resampled, [0.025, 0.975])
    value = float(at_double(values.mean(axis=1)[None])[0])
    return Estimate(value, min(value, float(low)), max(value, float(high)))

"""Methods on the same leaves: seed-averaged accuracies and differences, with intervals by the two-level bootstrap.

N test leaves. What varies is which cultivars and which of their leaves were photographed; the training seeds are averaged and
never counted as more leaves. The spread over seeds is told beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ufgvc.evaluation.benchmark_record import BenchmarkDataset, MethodResult

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
RESAMPLES = 10_000
HELD = 1 << 21  # counts in memory at a time


@dataclass(frozen=True)
class Estimate:
    """A share in [0, 1] with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """First minus second, as shares in [-1, 1], with the 95 % interval and the two-sided p of no difference."""

    value: float
    low: float
    high: float
    p: float


def finished(entry: MethodResult, draw: BenchmarkDataset) -> dict[int, NDArray[np.bool_]]:
    """{seed: (N,) right or not} of the runs that finished on a draw. ValueError if a run speaks of other leaves than the draw's."""
    found = {run.seed: run.right for run in entry.runs if run.dataset == draw.name and run.right is not None}
    for seed, right in found.items():
        if right.shape != draw.labels.shape:
            raise ValueError(
                f"{entry.key}, seed {seed}: {right.shape} is not the {draw.labels.shape} leaves of {draw.name}"
            )
    return found


def seed_mean(entry: MethodResult, draws: Sequence[BenchmarkDataset]) -> Floats | None:
    """(N of all draws,) share of the finished seeds that named each leaf rightly; None if no seed finished on one of the draws."""
    runs = [finished(entry, draw) for draw in draws]
    if not runs or not all(runs):
        return None
    return np.concatenate([np.mean(list(seeds.values()), axis=0, dtype=np.float64) for seeds in runs])


def pooled_cultivars(draws: Sequence[BenchmarkDataset]) -> Ints:
    """(N of all draws,) a number for each leaf's cultivar; cultivars of different draws are different ones."""
    starts = np.cumsum([0, *(draw.classes for draw in draws)])
    return np.concatenate([draw.labels + start for draw, start in zip(draws, starts, strict=False)]).astype(np.int64)


def resampled_means(values: Floats, cultivar_ids: Ints, draws: int = RESAMPLES, seed: int = 0) -> Floats:
    """Means of values (N, M) over `draws` resamples: (draws, M); a resample is the same for all M columns.

    A resample takes as many cultivars as there are, with replacement, and for each of them as many of its leaves as it has, with
    replacement. That equals multinomial counts: a cultivar of n leaves that was taken k times spreads k n leaves over its n.
    Both levels vary, so with few leaves a cultivar the intervals are wide rather than narrow (Davison and Hinkley 1997, 3.8).
    """
    _, place, leaves = np.unique(cultivar_ids, return_inverse=True, return_counts=True)
    by_cultivar, first = np.argsort(place, kind="stable"), np.cumsum(leaves) - leaves
    # Cultivars with equally many leaves are drawn in one call: members (G,), their leaves' values (G n, M).
    groups = []
    for n in np.unique(leaves):
        members = np.flatnonzero(leaves == n)
        rows = by_cultivar[first[members][:, None] + np.arange(n)]
        groups.append((int(n), members, np.asarray(values, np.float64)[rows.ravel()]))
    random, cultivars = np.random.default_rng(seed), len(leaves)
    step, means = max(1, HELD // len(cultivar_ids)), []
    for start in range(0, draws, step):
        size = min(step, draws - start)
        taken = random.multinomial(cultivars, np.full(cultivars, 1 / cultivars), size=size)
        sums = np.zeros((size, values.shape[1]))
        for n, members, seen in groups:
            counts = random.multinomial(n * taken[:, members], np.full(n, 1 / n))
            sums += counts.reshape(size, -1).astype(np.float64) @ seen
        means.append(sums / (taken @ leaves)[:, None])
    return np.concatenate(means)


def paired_bootstrap(
    first: Floats, second: Floats, cultivar_ids: Ints, draws: int = RESAMPLES, seed: int = 0
) -> Difference:
    """Mean of first - second, both (N,) about the same leaves in the same order. ValueError if they, or the ids, differ in number."""
    if not first.shape == second.shape == cultivar_ids.shape or not len(first):
        raise ValueError(f"not the same leaves: {first.shape}, {second.shape}, cultivars {cultivar_ids.shape}")
    gap = np.subtract(first, second, dtype=np.float64)
    return difference(float(gap.mean()), resampled_means(gap[:, None], cultivar_ids, draws, seed)[:, 0])


def difference(value: float, resampled: Floats) -> Difference:
    """Percentile interval of the resampled differences (R,); p = 2 min(#(d <= 0) + 1, #(d >= 0) + 1) / (R + 1), at most 1."""
    # Equal sums that were added up in another order must still count as equal.
    d = np.round(resampled, 12)
    low, high = np.quantile(d, [0.025, 0.975])
    rarer = min((d <= 0).sum(), (d >= 0).sum()) + 1
    return Difference(value, float(low), float(high), float(min(1.0, 2 * rarer / (len(d) + 1))))


def accuracy_interval(right: Floats, cultivar_ids: Ints, draws: int = RESAMPLES, seed: int = 0) -> Estimate:
    """The mean of right (N,) in [0, 1], seed-averaged or of one seed, with the percentile interval of the same bootstrap."""
    if right.shape != cultivar_ids.shape or not len(right):
        raise ValueError(f"not the same leaves: {right.shape}, cultivars {cultivar_ids.shape}")
    return estimate(
        float(right.mean(dtype=np.float64)), resampled_means(right[:, None], cultivar_ids, draws, seed)[:, 0]
    )


def estimate(value: float, resampled: Floats) -> Estimate:
    """Percentile interval of the resampled accuracies (R,)."""
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def holm(p_values: Sequence[float]) -> Floats:
    """p-values (M,) corrected so that the chance of any false alarm among the M stays below the level (Holm 1979)."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted

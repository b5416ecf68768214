"""Methods on the same images: seed-averaged accuracies and differences, with two-level bootstrap intervals.

N scored images. The bootstrap resamples cultivars and, within them, groups of images (a plant, a photograph; an image
without a group is one by itself); in cross-validation it resamples groups only. Training seeds are averaged and never
counted as more images. The variation between seeds is reported separately.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from ufgvc.evaluation.benchmark_record import BenchmarkDataset, MethodResult

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
RESAMPLES = 10_000
MAX_COUNTS = 1 << 21  # resampling counts in memory at a time


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


def right_by_seed(method: MethodResult, dataset: BenchmarkDataset) -> dict[int, NDArray[np.bool_]]:
    """{seed: (N,) right or not} of the runs that finished on a data set. ValueError for a run on other images."""
    found = {run.seed: run.right for run in method.runs if run.dataset == dataset.name and run.right is not None}
    for seed, right in found.items():
        if right.shape != dataset.labels.shape:
            what = f"{right.shape} is not the {dataset.labels.shape} leaves of {dataset.name}"
            raise ValueError(f"{method.key}, seed {seed}: {what}")
    return found


def seed_mean(method: MethodResult, datasets: Sequence[BenchmarkDataset]) -> Floats | None:
    """(N of all data sets,) share of the finished seeds that classify each image correctly.

    None if there is a data set on which no seed finished.
    """
    runs = [right_by_seed(method, dataset) for dataset in datasets]
    if not runs or not all(runs):
        return None
    return np.concatenate([np.mean(list(seeds.values()), axis=0, dtype=np.float64) for seeds in runs])


def pooled_cultivars(datasets: Sequence[BenchmarkDataset]) -> Ints:
    """(N of all data sets,) an id of each image's cultivar; cultivars of different data sets are different."""
    starts = np.cumsum([0, *(dataset.classes for dataset in datasets)])
    labels = [dataset.labels + start for dataset, start in zip(datasets, starts, strict=False)]
    return np.concatenate(labels).astype(np.int64)


def pooled_groups(datasets: Sequence[BenchmarkDataset]) -> Ints:
    """(N of all data sets,) an id of each image's group; an image of a data set without groups is one by itself."""
    pooled, start = [], 0
    for dataset in datasets:
        own = np.arange(len(dataset.labels)) if dataset.groups is None else dataset.groups
        pooled.append(own + start)
        start += int(own.max(initial=-1)) + 1
    return np.concatenate(pooled).astype(np.int64)


def resampled_means(
    values: Floats, cultivar_ids: Ints, resamples: int = RESAMPLES, seed: int = 0, groups: Ints | None = None
) -> Floats:
    """Bootstrap means (resamples, M) of values (N, M); a resample is the same for all M columns.

    cultivar_ids: (N,).  groups: (N,) ids of the groups whose images are not independent; None: every image by itself.
    A resample takes as many cultivars as there are, with replacement, and for each of them as many of its groups as it
    has, with replacement, each with all of its images. That equals multinomial counts: a cultivar of n groups that was
    taken k times distributes k n groups over its n. Both levels vary, so with few groups of a cultivar the intervals
    are wide rather than narrow (Davison and Hinkley 1997, 3.8).
    """
    units = np.arange(len(cultivar_ids)) if groups is None else groups
    # The units of the lower level, by cultivar: (2, U) cultivar and group, and the sums over their images (U, M + 1).
    (owners, _), of_unit = np.unique(np.stack([cultivar_ids, units]), axis=1, return_inverse=True)
    sums_of_unit = np.zeros((len(owners), values.shape[1] + 1))
    np.add.at(sums_of_unit, of_unit, np.column_stack([values, np.ones(len(values))]))
    _, sizes = np.unique(owners, return_counts=True)
    first = np.cumsum(sizes) - sizes
    # Cultivars with equally many units are resampled in one call: members (G,), sums of their units (G n, M + 1).
    alike = []
    for n in np.unique(sizes):
        members = np.flatnonzero(sizes == n)
        rows = first[members][:, None] + np.arange(n)
        alike.append((int(n), members, sums_of_unit[rows.ravel()]))
    random, cultivars = np.random.default_rng(seed), len(sizes)
    step, means = max(1, MAX_COUNTS // len(owners)), []
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        taken = random.multinomial(cultivars, np.full(cultivars, 1 / cultivars), size=size)
        sums = np.zeros((size, values.shape[1] + 1))
        for n, members, unit_sums in alike:
            counts = random.multinomial(n * taken[:, members], np.full(n, 1 / n))
            sums += counts.reshape(size, -1).astype(np.float64) @ unit_sums
        means.append(sums[:, :-1] / sums[:, -1:])
    return np.concatenate(means)


def resampled_group_means(values: Floats, groups: Ints, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Bootstrap means (resamples, M) of values (N, M) over groups (N ids); a resample is the same for all M columns.

    A resample takes as many groups as there are, with replacement, each with all of its images: the cultivars are those
    that there are, and only the plants or photographs are a sample. ValueError for fewer than two groups.
    """
    _, of_group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    sums = np.zeros((len(sizes), values.shape[1]))
    np.add.at(sums, of_group, values)

    def mean(sums: Floats, sizes: Floats, axis: int) -> Floats:
        return sums.sum(axis) / sizes.sum(axis)

    shared = {
        "paired": True,
        "n_resamples": resamples,
        "method": "percentile",
        "batch": max(1, MAX_COUNTS // len(sizes)),
    }
    columns = [bootstrap((column, sizes), mean, rng=seed, **shared).bootstrap_distribution for column in sums.T]
    return np.stack(columns, axis=1)


def paired_group_bootstrap(first: Floats, second: Floats, groups: Ints) -> Difference:
    """The mean of first - second, both (N,) of the same images in the same order, with the bootstrap over groups."""
    gap = np.subtract(first, second, dtype=np.float64)
    return difference(float(gap.mean()), resampled_group_means(gap[:, None], groups)[:, 0])


def paired_bootstrap(
    first: Floats, second: Floats, cultivar_ids: Ints, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """The mean of first - second, both (N,) of the same images in the same order. ValueError if the lengths differ."""
    if not first.shape == second.shape == cultivar_ids.shape or not len(first):
        raise ValueError(f"not the same leaves: {first.shape}, {second.shape}, cultivars {cultivar_ids.shape}")
    gap = np.subtract(first, second, dtype=np.float64)
    return difference(float(gap.mean()), resampled_means(gap[:, None], cultivar_ids, resamples, seed)[:, 0])


def difference(value: float, resampled: Floats) -> Difference:
    """The percentile interval of resampled differences (R,), with p = 2 min(#(d <= 0) + 1, #(d >= 0) + 1) / (R + 1)."""
    # Rounded: equal sums that were added up in another order must count as equal.
    d = np.round(resampled, 12)
    low, high = np.quantile(d, [0.025, 0.975])
    rarer = min((d <= 0).sum(), (d >= 0).sum()) + 1
    return Difference(value, float(low), float(high), float(min(1.0, 2 * rarer / (len(d) + 1))))


def accuracy_interval(right: Floats, cultivar_ids: Ints, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """The mean of right (N,) in [0, 1], of one seed or averaged over seeds, with the interval of the same bootstrap."""
    if right.shape != cultivar_ids.shape or not len(right):
        raise ValueError(f"not the same leaves: {right.shape}, cultivars {cultivar_ids.shape}")
    resampled = resampled_means(right[:, None], cultivar_ids, resamples, seed)[:, 0]
    return estimate(float(right.mean(dtype=np.float64)), resampled)


def estimate(value: float, resampled: Floats) -> Estimate:
    """The percentile interval of resampled accuracies (R,)."""
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def holm(p_values: Sequence[float]) -> Floats:
    """p-values (M,) adjusted for M tests (Holm 1979)."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted

"""Statistics of a benchmark: accuracy, interval, difference to the references and cost of each method."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ufgvc.evaluation.benchmark_record import BenchmarkDataset, BenchmarkRecord, MethodResult, RunResult
from ufgvc.evaluation.bootstrap import (
    RESAMPLES,
    Difference,
    Estimate,
    Floats,
    difference,
    estimate,
    holm,
    pooled_cultivars,
    pooled_groups,
    resampled_group_means,
    resampled_means,
    right_by_seed,
    seed_mean,
)


@dataclass(frozen=True)
class MethodSummary:
    """The statistics of a method over the data sets on which at least one of its runs finished; None: not measured.

    right: correctly classified leaves of `leaves`, the mean over the seeds.  seeds: how many finished on any data set.
    spread: standard deviation of the accuracy over the seeds that finished on all of these data sets.
    minutes, images_per_second, train_accuracy: means over the finished runs.
    differences: {reference: accuracy minus that of the reference, on the data sets that both finished}.
    corrected: {reference: p of that difference with Holm's correction}.  notes: options, coverage and failed runs.
    """

    result: MethodResult
    datasets: tuple[BenchmarkDataset, ...] = ()
    leaves: int = 0
    right: float | None = None
    accuracy: Estimate | None = None
    seeds: int = 0
    spread: float | None = None
    minutes: float | None = None
    images_per_second: float | None = None
    train_accuracy: float | None = None
    learning_rates: tuple[float, ...] = ()
    differences: Mapping[str, Difference] = field(default_factory=dict)
    corrected: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def summarize(record: BenchmarkRecord, resamples: int = RESAMPLES, seed: int = 0) -> list[MethodSummary]:
    """One summary for each method, in the order of the record.

    Holm's correction counts, for each reference, all methods that are compared with it.
    """
    samples = _Resamples(record, resamples, seed)
    references = [one for one in map(record.find, record.references) if one]
    summaries = [_summary(one, record, samples, references) for one in record.methods]
    corrected: list[dict[str, float]] = [{} for _ in summaries]
    for reference in record.references:
        family = [i for i, summary in enumerate(summaries) if reference in summary.differences]
        p_values = holm([summaries[i].differences[reference].p for i in family])
        for i, p in zip(family, p_values, strict=True):
            corrected[i][reference] = float(p)
    return [replace(summary, corrected=p) for summary, p in zip(summaries, corrected, strict=True)]


class _Resamples:
    """Bootstrap means of all methods, drawn once for each combination of data sets.

    All methods share the resamples, so the resampled difference of two methods is the difference of their columns.
    """

    def __init__(self, record: BenchmarkRecord, resamples: int, seed: int) -> None:
        self.record, self.resamples, self.seed = record, resamples, seed
        self.drawn: dict[tuple[str, ...], dict[str, Floats]] = {}

    def of(self, datasets: Sequence[BenchmarkDataset]) -> dict[str, Floats]:
        """{key: (resamples,)} of the methods that finished on all of these data sets."""
        names = tuple(dataset.name for dataset in datasets)
        if names not in self.drawn:
            means = {one.key: seed_mean(one, datasets) for one in self.record.methods}
            known = {key: mean for key, mean in means.items() if mean is not None}
            values = np.stack(list(known.values()), axis=1)
            groups = pooled_groups(datasets)
            if self.record.protocol == "crossval":
                columns = resampled_group_means(values, groups, self.resamples, self.seed)
            else:
                columns = resampled_means(values, pooled_cultivars(datasets), self.resamples, self.seed, groups)
            self.drawn[names] = dict(zip(known, columns.T, strict=True))
        return self.drawn[names]


def _summary(
    one: MethodResult, record: BenchmarkRecord, samples: _Resamples, references: Sequence[MethodResult]
) -> MethodSummary:
    datasets = _finished_datasets(one, record)
    summary = MethodSummary(one, datasets=datasets, notes=_notes(one, datasets, record), **_costs(one))
    mean = seed_mean(one, datasets)
    if mean is None:
        return summary
    differences = {reference.key: _difference(one, reference, record, samples) for reference in references}
    return replace(
        summary,
        leaves=len(mean),
        right=round(float(mean.sum()), 9),  # thirds add up to whole leaves
        accuracy=estimate(float(mean.mean()), samples.of(datasets)[one.key]),
        differences={key: gap for key, gap in differences.items() if gap},
        **_seeds(one, datasets),
    )


def _finished_datasets(one: MethodResult, record: BenchmarkRecord) -> tuple[BenchmarkDataset, ...]:
    return tuple(dataset for dataset in record.datasets if right_by_seed(one, dataset))


def _difference(
    one: MethodResult, reference: MethodResult, record: BenchmarkRecord, samples: _Resamples
) -> Difference | None:
    common = [dataset for dataset in _finished_datasets(one, record) if right_by_seed(reference, dataset)]
    first, second = seed_mean(one, common), seed_mean(reference, common)
    if one is reference or first is None or second is None:
        return None
    columns = samples.of(common)
    return difference(float((first - second).mean()), columns[one.key] - columns[reference.key])


def _seeds(one: MethodResult, datasets: Sequence[BenchmarkDataset]) -> dict[str, Any]:
    runs = [right_by_seed(one, dataset) for dataset in datasets]
    everywhere = set.intersection(*map(set, runs))
    accuracies = [np.concatenate([seeds[seed] for seeds in runs]).mean() for seed in sorted(everywhere)]
    spread = float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None
    return {"seeds": len(set().union(*runs)), "spread": spread}


def _costs(one: MethodResult) -> dict[str, Any]:
    done = [run for run in one.runs if run.right is not None]

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    seconds = mean([run.seconds for run in done])
    return {
        "train_accuracy": mean([run.train_accuracy for run in done]),
        "minutes": None if seconds is None else seconds / 60,
        "images_per_second": mean([run.images_per_second for run in done]),
        "learning_rates": tuple(sorted({rate for run in done for rate in run.learning_rates})),
    }


def _notes(one: MethodResult, datasets: Sequence[BenchmarkDataset], record: BenchmarkRecord) -> tuple[str, ...]:
    notes = [text for text in (one.options, one.note) if text]
    if 0 < len(datasets) < len(record.datasets):
        notes.append(f"only {', '.join(dataset.name for dataset in datasets)}")
    lost: dict[str, dict[str, list[RunResult]]] = defaultdict(lambda: defaultdict(list))
    for run in one.runs:
        if run.right is None:
            lines = (run.error or "").strip().splitlines()
            lost[f"failed: {_shorten(lines[0])}" if lines else "missing"][run.dataset].append(run)
    for reason, by_dataset in lost.items():
        where = "; ".join(
            f"{dataset}, seed {', '.join(str(run.seed) for run in runs)}" for dataset, runs in by_dataset.items()
        )
        notes.append(f"{reason} ({where})")
    return tuple(notes)


def _shorten(text: str, length: int = 90) -> str:
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}\u2026"

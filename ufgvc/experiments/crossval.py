"""Cross-validation in a benchmark: every leaf of a data set is scored once a seed, by a net that never saw its fold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ufgvc.core.errors import UserError
from ufgvc.data.dataset import Dataset, read_index
from ufgvc.data.splits import HeldFold, count_groups, pool_splits
from ufgvc.evaluation.benchmark_record import BenchmarkDataset, Protocol, RunResult
from ufgvc.experiments.settings import BenchmarkSettings
from ufgvc.experiments.training_job import JobOutcome, read_all_scores
from ufgvc.models.score import rank_classes

Ints = NDArray[np.int64]
Leaves = tuple[BenchmarkDataset, list[str]]  # scored leaves, and their image ids in the same order
COSTS = ("seconds", "images_per_second", "train_accuracy")  # of a result of `run_job` and of a RunResult


def list_held_folds(protocol: Protocol, settings: BenchmarkSettings, row: str | None = None) -> list[HeldFold | None]:
    """Every fold of every seed (of one row, or of the row with most), seeds outermost; [None] for the fixed split."""
    if protocol == "fixed":
        return [None]
    seeds = settings.most_seeds if row is None else settings.seeds_for(row)
    return [HeldFold(settings.folds, fold, seed, "all") for seed in range(seeds) for fold in range(settings.folds)]


def scored_leaves(dataset: Dataset, protocol: Protocol) -> Leaves:
    """The leaves that a protocol scores."""
    index = read_index(pool_splits(dataset), "all") if protocol == "crossval" else read_index(dataset, "test")
    labels = index["label"].to_numpy().astype(np.int64)
    found = BenchmarkDataset(dataset.name, labels, len(dataset.classes), group_ids(index))
    return found, index["image_id"].to_pylist()


def group_ids(index: pa.Table) -> Ints | None:
    """(N,) an id of each leaf's group, a leaf without a group being one by itself; None if there are no groups."""
    names, image_ids = index["group"].to_pylist(), index["image_id"].to_pylist()
    if names.count(None) == len(names):
        return None
    pairs = zip(names, image_ids, strict=True)
    units = [f"leaf {image}" if name is None else f"group {name}" for name, image in pairs]
    return np.unique(units, return_inverse=True)[1].astype(np.int64)


def check_leaves(dataset: Dataset, settings: BenchmarkSettings, protocol: Protocol) -> None:
    """UserError for a cultivar with too few leaves (or groups of leaves) to fold, or to choose a learning rate."""
    pooled = pool_splits(dataset) if protocol == "crossval" else dataset
    index = read_index(pooled, "all" if protocol == "crossval" else "train")
    labels, groups = index["label"].to_numpy().astype(np.int64), index["group"].to_pylist()
    one, several = ("leaf", "leaves") if groups.count(None) == len(groups) else ("group of leaves", "groups of leaves")
    where = dataset.store.uri

    def scarcest(rows: Ints) -> tuple[str, int]:
        """The cultivar of `labels` with the fewest groups among the rows, and how many they are."""
        counts = count_groups(labels[rows], [groups[row] for row in rows], len(dataset.classes))
        label = min(np.unique(labels).tolist(), key=lambda label: counts[label])
        return dataset.classes[label], int(counts[label])

    name, count = scarcest(np.arange(len(labels)))
    if protocol == "crossval" and count < settings.folds:
        what = (
            f"cultivar {name} has {count} {one if count == 1 else several} in all, too few for {settings.folds} folds"
        )
        fix = f"use `--folds {count}`" if count > 1 else f"ingest more photographs of {name}, or leave it out"
        raise UserError(what, where=where, fix=fix)
    for held in list_held_folds(protocol, settings) if settings.chooses_lr else []:
        name, count = scarcest(np.arange(len(labels)) if held is None else held.indices(labels, groups)[0])
        if count < 2:
            what = f"cultivar {name} has only one {one} to train on: to choose a learning rate, one must be held out"
            fix = "give a single one of --lr-factors, so that there is nothing to choose, or ingest more photographs"
            raise UserError(what, where=where, fix=fix)


def assemble_runs(
    outcomes: Sequence[JobOutcome],
    lr_outcomes: Sequence[JobOutcome],
    held_folds: Sequence[HeldFold | None],
    leaves: Sequence[Leaves],
) -> list[RunResult]:
    """One run for each data set and seed of a cross-validated row, from the outcomes of its folds.

    outcomes: of the row.  lr_outcomes: of its learning rates, whose failure may have left a fold untrained.
    leaves: of `scored_leaves`, in the order of the data sets.  A run lacks all leaves if one of its folds failed.
    """
    runs = []
    for seed in dict.fromkeys(held.seed for held in held_folds if held is not None):
        for place, (dataset, image_ids) in enumerate(leaves):
            own = [each for each in outcomes if (each.job.seed, each.job.dataset_index) == (seed, place)]
            done = {each.job.config.held_fold for each in own if each.result is not None}
            missing = [held for held in held_folds if held is not None and held.seed == seed and held not in done]
            if missing:
                failed = [*own, *(each for each in lr_outcomes if each.job.config.held_fold in missing)]
                reason = next((each.error for each in failed if each.result is None), None)
                runs.append(RunResult(dataset.name, seed, None, reason))
            else:
                runs.append(_assemble(own, dataset, image_ids))
    return runs


def _assemble(outcomes: Sequence[JobOutcome], dataset: BenchmarkDataset, image_ids: Sequence[str]) -> RunResult:
    """The run of the finished folds of a seed. RuntimeError if a leaf was not scored exactly once."""
    row_of = {image: row for row, image in enumerate(image_ids)}
    right, scored = np.zeros(len(row_of), bool), np.zeros(len(row_of), np.int64)
    for outcome in outcomes:
        held_ids, logits = read_all_scores(outcome.job.store)
        rows = [row_of[image] for image in held_ids]
        right[rows] = rank_classes(logits, 1)[:, 0] == dataset.labels[rows]
        scored[rows] += 1
    if not (scored == 1).all():
        raise RuntimeError(f"{outcomes[0].job.variant}: the folds do not score every leaf of {dataset.name} once")
    results = [outcome.result for outcome in outcomes if outcome.result is not None]
    costs: dict[str, Any] = {name: float(np.mean([result[name] for result in results])) for name in COSTS}
    rates = sorted({rate for outcome in outcomes for rate in outcome.job.learning_rates})
    return RunResult(dataset.name, outcomes[0].job.seed, right, learning_rates=tuple(rates), **costs)

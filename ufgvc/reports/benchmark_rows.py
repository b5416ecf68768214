"""What the cells of a benchmark add up to: one row an entry, with every figure that its tables, its chart and its text show."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ufgvc.evaluation.comparison import BenchmarkDataset, Cell, Comparison, Entry
from ufgvc.evaluation.stats import (
    RESAMPLES,
    Difference,
    Estimate,
    Floats,
    difference,
    estimate,
    finished,
    holm,
    pooled_cultivars,
    resampled_means,
    seed_mean,
)


@dataclass(frozen=True)
class Row:
    """An entry and its figures over the draws that it finished; None is what was not measured.

    right: leaves named rightly, the mean over seeds, of `leaves`.  spread: standard deviation over the seeds that finished every one
    of these draws.  against: {reference: entry - reference, over the draws that both finished}.  corrected: {reference: Holm's p}.
    """

    entry: Entry
    draws: tuple[BenchmarkDataset, ...] = ()
    leaves: int = 0
    right: float | None = None
    accuracy: Estimate | None = None
    seeds: int = 0
    spread: float | None = None
    minutes: float | None = None
    images_per_second: float | None = None
    train_accuracy: float | None = None
    learning_rates: tuple[float, ...] = ()
    against: Mapping[str, Difference] = field(default_factory=dict)
    corrected: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def measure(comparison: Comparison, resamples: int = RESAMPLES, seed: int = 0) -> list[Row]:
    """One row an entry, in the comparison's order. Holm's correction: for each reference over all the rows compared with it."""
    ran = {entry.key: tuple(draw for draw in comparison.draws if finished(entry, draw)) for entry in comparison.entries}
    samples: dict[tuple[str, ...], dict[str, Floats]] = {}

    def sampled(draws: Sequence[BenchmarkDataset]) -> dict[str, Floats]:
        # Every entry that finished these draws, on the same resamples: the difference of two is then that of their columns.
        names = tuple(draw.name for draw in draws)
        if names not in samples:
            means = {entry.key: seed_mean(entry, draws) for entry in comparison.entries}
            known = {key: mean for key, mean in means.items() if mean is not None}
            columns = resampled_means(np.stack(list(known.values()), axis=1), pooled_cultivars(draws), resamples, seed)
            samples[names] = dict(zip(known, columns.T, strict=True))
        return samples[names]

    def against(entry: Entry, reference: Entry) -> Difference | None:
        draws = [draw for draw in ran[entry.key] if draw in ran[reference.key]]
        first, second = seed_mean(entry, draws), seed_mean(reference, draws)
        if entry is reference or first is None or second is None:
            return None
        columns = sampled(draws)
        return difference(float((first - second).mean()), columns[entry.key] - columns[reference.key])

    references = [entry for entry in map(comparison.entry, comparison.references) if entry]
    rows = []
    for entry in comparison.entries:
        draws = ran[entry.key]
        row = Row(entry, draws=draws, notes=_notes(entry, draws, comparison), **_costs(entry))
        mean = seed_mean(entry, draws)
        if mean is not None:
            found = {reference.key: against(entry, reference) for reference in references}
            row = replace(
                row,
                leaves=len(mean),
                right=round(float(mean.sum()), 9),  # thirds add up to whole leaves
                accuracy=estimate(float(mean.mean()), sampled(draws)[entry.key]),
                against={key: gap for key, gap in found.items() if gap},
                **_seeds(entry, draws),
            )
        rows.append(row)
    return _corrected(rows, comparison.references)


def _corrected(rows: Sequence[Row], references: Sequence[str]) -> list[Row]:
    corrected: list[dict[str, float]] = [{} for _ in rows]
    for reference in references:
        family = [place for place, row in enumerate(rows) if reference in row.against]
        for place, p in zip(family, holm([rows[place].against[reference].p for place in family]), strict=True):
            corrected[place][reference] = float(p)
    return [replace(row, corrected=p) for row, p in zip(rows, corrected, strict=True)]


def _seeds(entry: Entry, draws: Sequence[BenchmarkDataset]) -> dict:
    """How many seeds finished anywhere, and the spread over those that finished everywhere."""
    runs = [finished(entry, draw) for draw in draws]
    whole = set.intersection(*map(set, runs))
    accuracies = [np.concatenate([seeds[seed] for seeds in runs]).mean() for seed in sorted(whole)]
    return {
        "seeds": len(set().union(*runs)),
        "spread": float(np.std(accuracies, ddof=1)) if len(accuracies) > 1 else None,
    }


def _costs(entry: Entry) -> dict:
    """Means over the runs that finished, and the learning rates that they used."""
    done = [cell for cell in entry.cells if cell.right is not None]
    seconds = [cell.seconds for cell in done if cell.seconds is not None]
    rates = [cell.images_per_second for cell in done if cell.images_per_second is not None]
    learnt = [cell.train_accuracy for cell in done if cell.train_accuracy is not None]
    return {
        "train_accuracy": float(np.mean(learnt)) if learnt else None,
        "minutes": float(np.mean(seconds)) / 60 if seconds else None,
        "images_per_second": float(np.mean(rates)) if rates else None,
        "learning_rates": tuple(sorted({cell.learning_rate for cell in done if cell.learning_rate is not None})),
    }


def _notes(entry: Entry, draws: Sequence[BenchmarkDataset], comparison: Comparison) -> tuple[str, ...]:
    """What a reader of the row must know: how it was selected, what it covers, and which runs failed or are missing."""
    notes = [text for text in (entry.options, entry.note) if text]
    if any(cell.selected_on_test for cell in entry.cells if cell.right is not None):
        notes.append("selected on test")
    if 0 < len(draws) < len(comparison.draws):
        notes.append(f"only {', '.join(draw.name for draw in draws)}")
    lost: dict[str, dict[str, list[Cell]]] = defaultdict(lambda: defaultdict(list))
    for cell in entry.cells:
        if cell.right is None:
            lines = (cell.error or "").strip().splitlines()
            lost[f"failed: {_short(lines[0])}" if lines else "missing"][cell.draw].append(cell)
    for what, by_draw in lost.items():
        where = "; ".join(
            f"{draw}, seed {', '.join(str(cell.seed) for cell in cells)}" for draw, cells in by_draw.items()
        )
        notes.append(f"{what} ({where})")
    return tuple(notes)


def _short(text: str, most: int = 90) -> str:
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}\u2026"

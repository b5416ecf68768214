"""Synthetic searches for the tests of the search report."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ufgvc.evaluation.search_record import Dimension, FinalResult, SearchRecord, TrialResult
from ufgvc.reports.tables import Table

FUSION = Dimension("options.fusion", "simplex", parts=("base", "vein", "contour"))
VEIN = Dimension("options.loss_weights.vein", "log", 0.001, 10.0)
RATE = Dimension("optimizer.lr", "log", 1e-4, 1e-2)
CROP = Dimension("recipe.crop", "linear", 0.5, 1.0)
BACKBONE = Dimension("options.backbone", "choice", choices=("resnet50", "resnet18"))
DIMENSIONS = (FUSION, VEIN, RATE, CROP, BACKBONE)
PAPER = {
    FUSION.name: {"base": 0.3, "vein": 0.5, "contour": 0.2},
    VEIN.name: 0.1,
    RATE.name: 8e-4,
    CROP.name: 0.875,
    BACKBONE.name: "resnet50",
}
LEAVES, EPOCHS = 240, 20


def synthetic_search(
    trials: int = 30,
    dimensions: tuple[Dimension, ...] = DIMENSIONS,
    repeats: int = 3,
    effect: float = 0.3,
    seed: int = 0,
    **changes,
) -> SearchRecord:
    """A search where only the weight of the vein matters: `effect` times its squared distance to 0.6 is lost.

    Scores have a standard deviation of 1.5 points over seeds.
    """
    random = np.random.default_rng(seed)
    rows = [
        _trial(number, PAPER if number == 0 else _random_values(random), random, effect) for number in range(trials)
    ]
    rows += [replace(_trial(trials + i, PAPER, random, effect), repeat=True) for i in range(repeats)]
    rows = [replace(row, values={one.name: row.values[one.name] for one in dimensions}) for row in rows]
    candidates = [row for row in rows if row.score is not None and not row.repeat]
    best = max(candidates, key=lambda row: row.curve[-1]).number if candidates else None
    labels = np.repeat(np.arange(80), 3)
    paper = rows[0]
    finals = [FinalResult("the paper's", paper.values, random.random((3, 240)) < 0.62)]
    if best:
        finals.append(FinalResult("best", rows[best].values, finals[0].right ^ (random.random((3, 240)) < 0.1)))
    record = SearchRecord(
        "cotton80", "mask_guided", dimensions, tuple(rows), best, LEAVES, 3, EPOCHS, labels, tuple(finals), 5000.0
    )
    return replace(record, **changes)


def _random_values(random: np.random.Generator) -> dict:
    base, vein, contour = random.dirichlet([1, 1, 1])
    return {
        FUSION.name: {"base": float(base), "vein": float(vein), "contour": float(contour)},
        VEIN.name: float(10 ** random.uniform(-3, 1)),
        RATE.name: float(10 ** random.uniform(-4, -2)),
        CROP.name: float(random.uniform(0.5, 1)),
        BACKBONE.name: str(random.choice(["resnet50", "resnet18"])),
    }


def _trial(number: int, values: dict, random: np.random.Generator, effect: float) -> TrialResult:
    end = 0.64 - effect * (values[FUSION.name]["vein"] - 0.6) ** 2 + random.normal(0, 0.015)
    curve = np.round(LEAVES * end * (1 - np.exp(-np.arange(1, EPOCHS + 1) / 4))) / LEAVES
    if number == 7:
        return TrialResult(number, values, "failed", seconds=12.0, error="CUDA out of memory.\nlong trace")
    epochs = EPOCHS if number == 0 or end > 0.6 or number % 3 == 0 else 5
    state = "complete" if epochs == EPOCHS else "stopped"
    ran = tuple(curve[:epochs].tolist())
    return TrialResult(
        number,
        values,
        state,
        ran,
        tuple(2 - c for c in ran),
        (ran[-1] - 0.02, ran[-1], ran[-1] + 0.02),
        30.0 * epochs,
    )


DUO = Dimension("options.fusion", "simplex", parts=("base", "vein"))


def two_weights() -> SearchRecord:
    record = synthetic_search(20, dimensions=(FUSION,))

    def without_contour(trial: TrialResult) -> TrialResult:
        base, vein = trial.values[FUSION.name]["base"], trial.values[FUSION.name]["vein"]
        return replace(trial, values={DUO.name: {"base": base / (base + vein), "vein": vein / (base + vein)}})

    return replace(record, dimensions=(DUO,), trials=tuple(map(without_contour, record.trials)), finals=())


def equal_scores() -> SearchRecord:
    """Equal scores of equal values."""
    curve = tuple([0.5] * EPOCHS)
    trials = [
        TrialResult(i, {BACKBONE.name: "resnet50"}, "complete", curve, tuple([float("nan")] * 20), (0.5,) * 3)
        for i in range(12)
    ]
    return replace(synthetic_search(12), dimensions=(BACKBONE,), trials=tuple(trials), best=0, finals=())


def cells(table: Table) -> dict[str | None, list[str | None]]:
    """The rows of a table by their first cell."""
    return {row[0]: row[1:] for row in table.rows}

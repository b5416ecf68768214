"""The raw results of a hyperparameter search: its dimensions, its trials, and the final test of two settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Dimension:
    """One dimension of the search space.  name: its dotted key in the configuration, e.g. options.loss_weights.vein.

    kind: `simplex` (weights that sum to 1; `parts` names them, and a value maps each name to its weight), `log` or
    `linear` (numbers between low and high), `choice` (one of `choices`).
    """

    name: str
    kind: Literal["simplex", "log", "linear", "choice"]
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] = ()
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrialResult:
    """One trial. Trial 0 has the paper's setting: the published value of every dimension.

    values: {Dimension.name: value}.  state: `complete` (all epochs), `stopped` (early, by ASHA), `failed`.
    curve: (epochs,) cross-validated accuracy in [0, 1] after each epoch that ran, over the leaves of all folds.
    losses: (epochs,) cross-entropy on the held-out leaves.  folds: accuracy of each fold after the last epoch that ran.
    repeat: the paper's setting trained with another seed; it measures the variance over seeds and is never selected.
    """

    number: int
    values: Mapping[str, Any]
    state: Literal["complete", "stopped", "failed"]
    curve: tuple[float, ...] = ()
    losses: tuple[float, ...] = ()
    folds: tuple[float, ...] = ()
    seconds: float = 0.0
    error: str | None = None
    repeat: bool = False

    @property
    def score(self) -> float | None:
        """Accuracy after the last epoch; None unless the trial is complete."""
        return self.curve[-1] if self.state == "complete" else None


@dataclass(frozen=True)
class FinalResult:
    """A setting trained on all training leaves and evaluated once on the test leaves.

    right: (seeds, test leaves) bool, whether the model of each seed classified each leaf correctly.
    """

    label: str
    values: Mapping[str, Any]
    right: NDArray[np.bool_]


@dataclass(frozen=True)
class SearchRecord:
    """A whole search.

    best: number of the selected trial; None if none completed.  leaves: training leaves, each held out once in a trial.
    epochs: of a complete trial.  labels: (test leaves,) class of each test leaf.
    finals: the paper's setting first, then the best one; only the first if they are the same, empty without a test.
    wall: seconds from the first trial to the last, over all starts.  facts: {name: value} for the end of the report.
    """

    dataset: str
    method: str
    dimensions: tuple[Dimension, ...]
    trials: tuple[TrialResult, ...]
    best: int | None
    leaves: int
    folds: int
    epochs: int
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    finals: tuple[FinalResult, ...] = ()
    wall: float = 0.0
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def paper(self) -> TrialResult | None:
        """The trial with the paper's setting; None if it did not run."""
        return next((trial for trial in self.trials if trial.number == 0), None)

    @property
    def candidates(self) -> list[TrialResult]:
        """The trials that the best one was selected from: complete, and no repeat of the paper's setting."""
        return [trial for trial in self.trials if trial.score is not None and not trial.repeat]

    def ranked(self) -> list[TrialResult]:
        """Candidates by score, the selected one first among equals; then repeats, stopped and failed trials."""
        groups = {"complete": 0, "stopped": 2, "failed": 3}

        def order(trial: TrialResult) -> tuple[int, float, bool, int]:
            group = 1 if trial.repeat and trial.state == "complete" else groups[trial.state]
            return group, -(trial.curve[-1] if trial.curve else 0.0), trial.number != self.best, trial.number

        return sorted(self.trials, key=order)

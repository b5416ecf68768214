"""What a search did, as its report reads it: settings, trials, their curves, and the two trainings that were tested at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Dimension:
    """One thing that was searched.  name: its dotted place in the configuration, such as options.loss_weights.vein.

    kind: `simplex` (weights that sum to 1; `parts` names them, and a value is a mapping of them), `log` or `linear` (numbers between
    low and high), `choice` (one of `choices`).
    """

    name: str
    kind: Literal["simplex", "log", "linear", "choice"]
    low: float | None = None
    high: float | None = None
    choices: tuple[Any, ...] = ()
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrialResult:
    """One trial. Trial 0 is the paper's setting (the published values of everything that was searched).

    values: by Axis.name.  state: `complete` (all epochs), `stopped` (early, by ASHA), `failed`.  curve: (epochs,) cross-validated accuracy
    after each epoch that ran, in [0, 1]: right over all folds / leaves.  losses: (epochs,) cross-entropy of the held-out leaves.
    folds: accuracy of each fold after the last epoch that ran.  repeat: a training of the paper's setting with another seed, which
    measures luck and can not win.
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
        """Accuracy after the last epoch; None for a trial that did not complete."""
        return self.curve[-1] if self.state == "complete" else None


@dataclass(frozen=True)
class FinalRow:
    """A setting trained on all training leaves and tested once.

    right: (seeds, test leaves) bool: which leaves each seed's net named rightly.
    """

    label: str
    values: Mapping[str, Any]
    right: NDArray[np.bool_]


@dataclass(frozen=True)
class SearchRecord:
    """labels: (test leaves,) int, the cultivar of each test leaf.  leaves: training leaves, each held out once in a trial.

    epochs: of a complete trial.  best: number of the winning trial; None if none completed.  finals: the paper's setting first, then the
    best one (only the first if they are the same); empty if nothing was tested.  wall: seconds from the first trial to the last,
    over all starts.  facts: what else the reader must know (data, fingerprint, initial weights, budget, machine), by name.
    """

    dataset: str
    method: str
    axes: tuple[Dimension, ...]
    trials: tuple[TrialResult, ...]
    best: int | None
    leaves: int
    folds: int
    epochs: int
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    finals: tuple[FinalRow, ...] = ()
    wall: float = 0.0
    facts: Mapping[str, str] = field(default_factory=dict)

"""ASHA, as Ray Tune has it, over trials that may have run in an earlier start of the search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler

from ufgvc.evaluation.search_record import TrialResult

EPOCH, SCORE = "epoch", "score"


class CooperativeASHA(ASHAScheduler):
    """Tells a trial to stop, and lets it end by itself: a killed one would leave workers and files behind.

    stop: called with the configuration of a trial that should end.  The paper's setting (trial 0) runs to its end whatever the others do,
    and its repeats take no part: equal settings would crowd the ranks.
    """

    def __init__(self, stop: Callable[[dict[str, Any]], None], epochs: int, grace: int, reduction: float) -> None:
        super().__init__(
            time_attr=EPOCH,
            metric=SCORE,
            mode="max",
            max_t=epochs,
            grace_period=min(grace, epochs),
            reduction_factor=reduction,
        )
        self._stop = stop

    def recall(self, rows: Sequence[TrialResult]) -> None:
        """What trials of an earlier start reported counts as if they had run now."""
        for row in rows:
            if row.repeat or not row.curve:
                continue
            nobody: Any = None  # ASHA asks nothing of Tune's controller, and of a trial only its name
            trial: Any = SimpleNamespace(trial_id=f"recalled-{row.number}")
            super().on_trial_add(nobody, trial)
            for epoch, score in enumerate(row.curve, start=1):
                super().on_trial_result(nobody, trial, {EPOCH: epoch, SCORE: score})
            super().on_trial_remove(nobody, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if trial.config["repeat"]:
            return TrialScheduler.CONTINUE
        action = super().on_trial_result(tune_controller, trial, result)
        if action == TrialScheduler.STOP and trial.config["number"] != 0 and result[EPOCH] < self._max_t:
            self._stop(trial.config)
        return TrialScheduler.CONTINUE

"""The searcher (Optuna) and the scheduler (ASHA) of a search on Ray Tune; both are rebuilt from earlier trials."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import Searcher

from ufgvc.evaluation.search_record import TrialResult
from ufgvc.experiments.search_space import decode_params, encode_values, make_grid, optuna_distributions, paper_values
from ufgvc.experiments.search_store import SearchStore, TrialConfig
from ufgvc.experiments.settings import SearchSettings

NUM_TRIALS = 40
EPOCH, SCORE = "epoch", "score"


@dataclass(frozen=True)
class TrialLog:
    """The trials on storage when a search starts.

    finished: with their results.  unfinished: started, without a result.
    """

    finished: tuple[tuple[TrialConfig, TrialResult], ...]
    unfinished: tuple[TrialConfig, ...]

    @classmethod
    def load(cls, store: SearchStore) -> TrialLog:
        """Reads all trials that were ever started."""
        results = [(trial, store.load_result(trial)) for trial in store.load_configs()]
        finished = tuple((trial, result) for trial, result in results if result is not None)
        return cls(finished, tuple(trial for trial, result in results if result is None))

    @property
    def started(self) -> list[TrialConfig]:
        """All of them, by number."""
        return sorted([*(trial for trial, _ in self.finished), *self.unfinished], key=lambda trial: trial.number)


class ResumableSearcher(Searcher):
    """Suggests unfinished trials first, then the paper's setting, new settings of Optuna or the grid, and the repeats.

    The Optuna study is in memory; every start adds the finished trials to it again.
    """

    def __init__(self, store: SearchStore, settings: SearchSettings, log: TrialLog) -> None:
        super().__init__(metric=SCORE, mode="max")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.store, self.num_trials = store, settings.num_trials or NUM_TRIALS
        self.distributions = optuna_distributions(store.dimensions)
        self.unfinished = list(log.unfinished)
        self.paper = paper_values(store.dimensions, store.method, store.options, store.train)
        self.started = sum(trial.repeat == 0 for trial in log.started)
        self.next_number = max((trial.number + 1 for trial in log.started), default=0)
        repeated = {trial.repeat for trial in log.started}
        self.repeats = [repeat for repeat in range(1, settings.repeats + 1) if repeat not in repeated]
        self.grid: list[dict[str, Any]] | None = None
        if settings.sampler == "grid":
            self.grid = grid_order(store, settings.grid_points)
            self.num_trials = min(settings.num_trials or 1 + len(self.grid), 1 + len(self.grid))
        sampler = _make_sampler(settings.sampler, store.seed + self.next_number)
        self.study = optuna.create_study(direction="maximize", sampler=sampler)
        self.running: dict[str, tuple[TrialConfig, optuna.Trial | None]] = {}
        for trial, result in log.finished:
            self._add_to_study(trial, result)

    @property
    def remaining(self) -> int:
        """Trials that are still to be suggested."""
        return len(self.unfinished) + max(0, self.num_trials - self.started) + len(self.repeats)

    def suggest(self, trial_id: str) -> Any:
        """{"number", "repeat"} of the next trial; Searcher.FINISHED after the last one."""
        asked: optuna.Trial | None = None
        if self.unfinished:
            trial = self.unfinished.pop(0)
        elif self.started < self.num_trials:
            values = self.paper
            if self.started and self.grid is not None:
                values = self.grid[self.started - 1]
            elif self.started:
                asked = self.study.ask(self.distributions)
                values = decode_params(self.store.dimensions, asked.params)
            trial = self._start(values)
            self.started += 1
        elif self.repeats:
            trial = self._start(self.paper, self.repeats.pop(0))
        else:
            return Searcher.FINISHED
        self.running[trial_id] = trial, asked
        return {"number": trial.number, "repeat": trial.repeat}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Reads the result of the trial from storage; a trial without one is not added to the study."""
        trial, asked = self.running.pop(trial_id)
        saved = self.store.load_result(trial)
        if asked is not None:
            # It marked the trial as running. The finished trial is added as a whole below.
            self.study.tell(asked, state=TrialState.FAIL)
        if saved is not None:
            self._add_to_study(trial, saved)

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the state is on storage already."""

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing: a start reads the trials from storage."""

    def _start(self, values: dict[str, Any], repeat: int = 0) -> TrialConfig:
        trial = TrialConfig(self.next_number, values, repeat)
        self.store.save_config(trial)
        self.next_number += 1
        return trial

    def _add_to_study(self, trial: TrialConfig, result: TrialResult) -> None:
        params = encode_values(self.store.dimensions, trial.values)
        if trial.repeat or params is None or result.state == "failed" or not result.curve:
            return
        complete = result.state == "complete"
        self.study.add_trial(
            optuna.create_trial(
                state=TrialState.COMPLETE if complete else TrialState.PRUNED,
                value=result.curve[-1] if complete else None,
                params=params,
                distributions=self.distributions,
                intermediate_values=dict(enumerate(result.curve, start=1)),
            )
        )


def grid_order(store: SearchStore, points: int) -> list[dict[str, Any]]:
    """Every point of the grid but the paper's, shuffled by the seed, so that a part of it covers the whole space."""
    paper = paper_values(store.dimensions, store.method, store.options, store.train)
    grid = [point for point in make_grid(store.dimensions, points) if point != paper]
    return [grid[index] for index in np.random.default_rng(store.seed).permutation(len(grid))]


def _make_sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    if name != "tpe":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # Running trials count as poor ones, so that concurrent trials differ.
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)


class CooperativeASHA(ASHAScheduler):
    """ASHA with cooperative stopping: trials exit themselves so that workers are cleaned up.

    The paper's setting (trial 0) always runs to its end, and its repeats are left out: equal settings would fill the
    top of the rungs.

    stop: called with the number of a trial that is to stop.  epochs: of a complete trial.
    grace: epochs before a trial can be stopped.  reduction: one of so many trials continues at each rung.
    """

    def __init__(self, stop: Callable[[int], None], epochs: int, grace: int, reduction: float) -> None:
        super().__init__(
            time_attr=EPOCH,
            metric=SCORE,
            mode="max",
            max_t=epochs,
            grace_period=min(grace, epochs),
            reduction_factor=reduction,
        )
        self._stop = stop

    def replay(self, results: Sequence[TrialResult]) -> None:
        """Adds the curves of trials of an earlier start to the rungs."""
        for result in results:
            if result.repeat or not result.curve:
                continue
            controller: Any = None  # ASHA does not use Tune's controller, and of a trial only its id
            trial: Any = SimpleNamespace(trial_id=f"replayed-{result.number}")
            super().on_trial_add(controller, trial)
            for epoch, score in enumerate(result.curve, start=1):
                super().on_trial_result(controller, trial, {EPOCH: epoch, SCORE: score})
            super().on_trial_remove(controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Always CONTINUE; calls `stop` for a trial that ASHA would stop before its last epoch."""
        if trial.config["repeat"]:
            return TrialScheduler.CONTINUE
        action = super().on_trial_result(tune_controller, trial, result)
        if action == TrialScheduler.STOP and trial.config["number"] != 0 and result[EPOCH] < self._max_t:
            self._stop(trial.config["number"])
        return TrialScheduler.CONTINUE

"""Which setting comes next: what an earlier start left unfinished, the paper's, what Optuna (or the grid) says, and the repeats."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune.search import Searcher

from ufgvc.evaluation.search_record import TrialResult
from ufgvc.experiments.search_store import SearchStore, TrialConfig
from ufgvc.experiments.settings import SearchSettings
from ufgvc.experiments.space import decode, distributions, encode, grid, paper_values
from ufgvc.experiments.stopping import SCORE

TRIALS = 40


@dataclass(frozen=True)
class TrialLog:
    """What is on storage at a start.  ended: with their rows.  open: begun and not ended."""

    ended: tuple[tuple[TrialConfig, TrialResult], ...]
    open: tuple[TrialConfig, ...]

    @classmethod
    def of(cls, study: SearchStore) -> TrialLog:
        settings = study.settings()
        rows = [(setting, study.row(setting)) for setting in settings]
        ended = tuple((setting, row) for setting, row in rows if row is not None)
        return cls(ended, tuple(setting for setting, row in rows if row is None))

    @property
    def begun(self) -> list[TrialConfig]:
        return sorted([setting for setting, _ in self.ended] + list(self.open), key=lambda setting: setting.number)


class ResumableSearcher(Searcher):
    """Tune's searcher over our ledger and an Optuna study in memory, which is told again at every start what earlier trials gave."""

    def __init__(self, study: SearchStore, settings: SearchSettings, ledger: TrialLog) -> None:
        super().__init__(metric=SCORE, mode="max")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study, self.limit = study, settings.trials or TRIALS
        self.distributions = distributions(study.axes)
        self.open = list(ledger.open)
        self.paper = paper_values(study.axes, study.method, study.options, study.train)
        self.begun = sum(setting.repeat == 0 for setting in ledger.begun)
        self.next_number = max((setting.number + 1 for setting in ledger.begun), default=0)
        repeated = {setting.repeat for setting in ledger.begun}
        self.repeats = [repeat for repeat in range(1, settings.repeats + 1) if repeat not in repeated]
        self.planned: list[dict[str, Any]] | None = None
        if settings.sampler == "grid":
            self.planned = grid_points(study, settings)
            self.limit = min(settings.trials or 1 + len(self.planned), 1 + len(self.planned))
        self.optuna = optuna.create_study(
            direction="maximize", sampler=_sampler(settings, study.seed + self.next_number)
        )
        self.asked: dict[str, tuple[TrialConfig, optuna.Trial | None]] = {}
        for setting, row in ledger.ended:
            self._learn(setting, row)

    @property
    def total(self) -> int:
        """Trials that will have run at the end, repeats included, of which `remaining` are still to come."""
        return self.next_number + self.remaining - len(self.open)

    @property
    def remaining(self) -> int:
        return len(self.open) + max(0, self.limit - self.begun) + len(self.repeats)

    def suggest(self, trial_id: str) -> Any:
        """What the next trial is told; Searcher.FINISHED after the last one."""
        asked: optuna.Trial | None = None
        if self.open:
            setting = self.open.pop(0)
        elif self.begun < self.limit:
            values = self.paper
            if self.begun and self.planned is not None:
                values = self.planned[self.begun - 1]
            elif self.begun:
                asked = self.optuna.ask(self.distributions)
                values = decode(self.study.axes, asked.params)
            setting = self._begin(values)
            self.begun += 1
        elif self.repeats:
            setting = self._begin(self.paper, self.repeats.pop(0))
        else:
            return Searcher.FINISHED
        self.asked[trial_id] = setting, asked
        return {"number": setting.number, "repeat": setting.repeat}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The trial's own record tells how it ended; one whose process was lost has none, and teaches nothing."""
        setting, asked = self.asked.pop(trial_id)
        row = self.study.row(setting)
        if asked is not None:
            # Told below as a whole; until then it stood for "being tried".
            self.optuna.tell(asked, state=TrialState.FAIL)
        if row is not None:
            self._learn(setting, row)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: all that counts is on storage already."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a start reads the ledger."""

    def _begin(self, values: dict[str, Any], repeat: int = 0) -> TrialConfig:
        setting = TrialConfig(self.next_number, values, repeat)
        self.study.begin(setting)
        self.next_number += 1
        return setting

    def _learn(self, setting: TrialConfig, row: TrialResult) -> None:
        params = encode(self.study.axes, setting.values)
        if setting.repeat or params is None or row.state == "failed" or not row.curve:
            return
        done = row.state == "complete"
        self.optuna.add_trial(
            optuna.create_trial(
                state=TrialState.COMPLETE if done else TrialState.PRUNED,
                value=row.curve[-1] if done else None,
                params=params,
                distributions=self.distributions,
                intermediate_values=dict(enumerate(row.curve, start=1)),
            )
        )


def grid_points(study: SearchStore, settings: SearchSettings) -> list[dict[str, Any]]:
    """Every point of the grid but the paper's, in an order that the seed decides, so that a part of it is spread over the whole."""
    import numpy as np

    paper = paper_values(study.axes, study.method, study.options, study.train)
    points = [point for point in grid(study.axes, settings.grid_points) if point != paper]
    return [points[place] for place in np.random.default_rng(study.seed).permutation(len(points))]


def _sampler(settings: SearchSettings, seed: int) -> optuna.samplers.BaseSampler:
    if settings.sampler != "tpe":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # Trials that run count as poor ones, so that those beside them try something else.
        return optuna.samplers.TPESampler(seed=seed, constant_liar=True)

"""A search on storage: what every process of it must know, and one folder a trial. Whoever is killed leaves this, and it is enough.

<runs>/<data set>/search/<key>/
    trials/0007/setting.json    written before the trial starts: its number, its values, whether it repeats the paper's setting
    trials/0007/stop.json       ASHA has stopped it
    trials/0007/trial.json      how it ended
    trials/0007/fold-0/         the fold's metrics.jsonl, and its checkpoint until the trial ends
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ufgvc.core.storage import Store, join, open_store
from ufgvc.data.dataset import open_dataset, read_manifest
from ufgvc.evaluation.search_record import Dimension, TrialResult
from ufgvc.experiments.benchmark_entries import first_weights
from ufgvc.experiments.space import configured
from ufgvc.methods import build
from ufgvc.training.settings import WorkerConfig
from ufgvc.training.preflight import check_batch, check_crop
from ufgvc.training.run import make_plan
from ufgvc.training.settings import TrainSettings

SETTING, RESULT = "setting.json", "trial.json"


@dataclass(frozen=True)
class TrialConfig:
    """One point of the space.  repeat: 0 for a trial of its own; else the paper's setting once more, with so much added to the seed."""

    number: int
    values: Mapping[str, Any]
    repeat: int = 0


@dataclass(frozen=True)
class SearchStore:
    """data, runs, folder: URIs.  options, train: the configuration that all trials share.  folds: of the training leaves."""

    data: str
    method: str
    options: Mapping[str, Any]
    train: TrainSettings
    axes: tuple[Dimension, ...]
    folds: int
    seed: int
    runs: str
    folder: str

    def trial(self, number: int) -> Store:
        return open_store(self.folder).child("trials", f"{number:04d}")

    def configured(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], TrainSettings]:
        """(options, training settings) with these values in them. UserError for values that do not go together."""
        options, train = configured(self.method, self.options, self.train, values)
        init = first_weights(train.init, str(options.get("backbone", self.method)))
        return options, train.model_copy(update={"init": init})

    def plans(self, setting: TrialConfig) -> list[WorkerConfig]:
        """A plan for each fold. All trials hold the same leaves out. UserError for values that do not go together."""
        options, train = self.configured(setting.values)
        dataset = open_dataset(self.data)
        method = build(self.method, len(dataset.classes), **options)
        masks = read_manifest(dataset, f"masks/{train.mask}").fingerprint if method.regions else None
        plans = []
        for fold in range(self.folds):
            split = train.model_copy(update={"validation": "kfold", "folds": self.folds, "fold": fold})
            plan, _ = make_plan(dataset, method, split, self.seed + setting.repeat, masks, self.runs)
            folder = join(self.trial(setting.number).uri, f"fold-{fold}")
            # The photographs exist once on a node, as files that every trial maps.
            plans.append(
                replace(plan, run=folder, split_seed=self.seed, cache="none" if train.cache == "none" else "host")
            )
        check_crop(method.name, plans[0].recipe["crop"], method.min_side)
        learnt = dataset.counts["train"] * (self.folds - 1) // self.folds
        check_batch(plans[0].recipe["batch_size"], train.workers, learnt)
        return plans

    def settings(self) -> list[TrialConfig]:
        """Every setting that was ever begun, by number."""
        names = open_store(self.folder).child("trials").list()
        numbers = sorted(int(name.split("/")[0]) for name in names if name.endswith(f"/{SETTING}"))
        return [TrialConfig(**self.trial(number).read_json(SETTING)) for number in numbers]

    def begin(self, setting: TrialConfig) -> None:
        """Writes the setting down, so that it is not lost whatever happens next."""
        self.trial(setting.number).write_json(SETTING, asdict(setting))

    def row(self, setting: TrialConfig) -> TrialResult | None:
        """How a trial ended; None if it has not. One that failed for a reason that may pass is not ended."""
        store = self.trial(setting.number)
        if not store.exists(RESULT):
            return None
        told = store.read_json(RESULT)
        return TrialResult(
            setting.number,
            setting.values,
            told["state"],
            curve=tuple(told["curve"]),
            losses=tuple(told["losses"]),
            folds=tuple(told["folds"]),
            seconds=told["seconds"],
            error=told["error"],
            repeat=setting.repeat > 0,
        )

    def end(self, row: TrialResult, final: bool = True) -> None:
        """final: False for a failure that the next start of the search tries again."""
        told = asdict(row)
        kept = {name: told[name] for name in ("state", "curve", "losses", "folds", "seconds", "error")}
        self.trial(row.number).write_json(RESULT, kept | {"ended": time.time(), "final": final})

    def wall(self) -> float:
        """Seconds during which trials ran, over all starts of the search."""
        spans = sorted(span for setting in self.settings() if (span := self._span(setting.number)) is not None)
        total, until = 0.0, 0.0
        for start, end in spans:
            total += max(0.0, end - max(start, until))
            until = max(until, end)
        return total

    def _span(self, number: int) -> tuple[float, float] | None:
        store = self.trial(number)
        if not store.exists(RESULT):
            return None
        told = store.read_json(RESULT)
        return told["ended"] - told["seconds"], told["ended"]

    def forget_failures(self) -> None:
        """At a start: what failed for a reason that may have passed (not: diverged) is to be tried again."""
        for setting in self.settings():
            store = self.trial(setting.number)
            if store.exists(RESULT) and not store.read_json(RESULT)["final"]:
                store.delete(RESULT)

"""A search on storage: its configuration, and a folder for each trial. It holds all that a restart needs.

<runs>/<data set>/search/<key>/
    trials/0007/config.json    written before the trial starts: number, values, whether it repeats the paper's setting
    trials/0007/stop.json      written when ASHA stops the trial
    trials/0007/result.json    how it ended
    trials/0007/failed.json    reason and traceback of a failure
    trials/0007/fold-0/        metrics.jsonl of the fold, and its checkpoint until the trial ends
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ufgvc.core.storage import Store, join, open_store
from ufgvc.data.dataset import open_dataset
from ufgvc.evaluation.search_record import Dimension, TrialResult
from ufgvc.experiments.entries import resolve_init
from ufgvc.experiments.search_space import apply_values
from ufgvc.methods import build
from ufgvc.training.preflight import check_batch, check_crop
from ufgvc.training.regions import mask_fingerprint
from ufgvc.training.run import make_worker_config
from ufgvc.training.settings import TrainSettings, WorkerConfig

CONFIG, STOP, RESULT = "config.json", "stop.json", "result.json"


@dataclass(frozen=True)
class TrialConfig:
    """One point of the search space.

    number: from 0 on; trial 0 has the paper's setting.  values: by `Dimension.name`.
    repeat: 0, or for a repetition of the paper's setting what is added to its seed.
    """

    number: int
    values: Mapping[str, Any]
    repeat: int = 0

    @property
    def name(self) -> str:
        """The trial in log lines."""
        if self.repeat:
            return f"trial {self.number} (the paper's setting again, seed +{self.repeat})"
        return f"trial {self.number}" + (" (the paper's setting)" if self.number == 0 else "")


@dataclass(frozen=True)
class SearchStore:
    """A search on storage.

    data, runs, folder: URIs.  options, train: the configuration that all trials share.
    dimensions: of the search space.  folds: of the cross-validation.  seed: of the folds and of the trainings.
    """

    data: str
    method: str
    options: Mapping[str, Any]
    train: TrainSettings
    dimensions: tuple[Dimension, ...]
    folds: int
    seed: int
    runs: str
    folder: str

    def trial(self, number: int) -> Store:
        """The folder of a trial."""
        return open_store(self.folder).child("trials", f"{number:04d}")

    def fold(self, number: int, fold: int) -> Store:
        """The folder of one fold of a trial."""
        return self.trial(number).child(f"fold-{fold}")

    def configure(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], TrainSettings]:
        """(options, training settings) with these values in them. UserError for values that do not go together."""
        options, train = apply_values(self.method, self.options, self.train, values)
        init = resolve_init(train.init, str(options.get("backbone", self.method)))
        return options, train.model_copy(update={"init": init})

    def worker_configs(self, trial: TrialConfig) -> list[WorkerConfig]:
        """The training of each fold. All trials have the same folds. UserError for values that do not go together."""
        options, train = self.configure(trial.values)
        dataset = open_dataset(self.data)
        method = build(self.method, len(dataset.classes), **options)
        masks = mask_fingerprint(dataset, method, train.mask_kind)
        cache = "none" if train.cache == "none" else "host"  # files that all trials of a node map
        configs = []
        for fold in range(self.folds):
            settings = train.model_copy(update={"validation": "kfold", "folds": self.folds, "fold": fold})
            config, _ = make_worker_config(dataset, method, settings, self.seed + trial.repeat, masks, self.runs)
            run = join(self.trial(trial.number).uri, f"fold-{fold}")
            configs.append(replace(config.with_train(cache=cache), run=run, split_seed=self.seed))
        check_crop(method.name, configs[0].recipe["crop"], method.min_side)
        per_fold = dataset.counts["train"] * (self.folds - 1) // self.folds
        check_batch(configs[0].recipe["batch_size"], train.workers, per_fold)
        return configs

    def save_config(self, trial: TrialConfig) -> None:
        """Writes the configuration of a trial that is about to start."""
        self.trial(trial.number).write_json(CONFIG, asdict(trial))

    def load_config(self, number: int) -> TrialConfig:
        """The configuration of a trial that was started."""
        return TrialConfig(**self.trial(number).read_json(CONFIG))

    def load_configs(self) -> list[TrialConfig]:
        """The configurations of all trials that were ever started, by number."""
        names = open_store(self.folder).child("trials").list()
        return [self.load_config(int(name.split("/")[0])) for name in sorted(names) if name.endswith(f"/{CONFIG}")]

    def save_result(self, result: TrialResult, final: bool = True) -> None:
        """final: False for a failure that the next start of the search tries again."""
        saved = {"state", "curve", "losses", "folds", "seconds", "error"}
        fields = {name: value for name, value in asdict(result).items() if name in saved}
        self.trial(result.number).write_json(RESULT, fields | {"ended": time.time(), "final": final})

    def load_result(self, trial: TrialConfig) -> TrialResult | None:
        """How a trial ended; None if it has not."""
        folder = self.trial(trial.number)
        if not folder.exists(RESULT):
            return None
        saved = folder.read_json(RESULT)
        return TrialResult(
            trial.number,
            trial.values,
            saved["state"],
            curve=tuple(saved["curve"]),
            losses=tuple(saved["losses"]),
            folds=tuple(saved["folds"]),
            seconds=saved["seconds"],
            error=saved["error"],
            repeat=trial.repeat > 0,
        )

    def clear_failures(self) -> None:
        """Deletes the results of failures that may not repeat (all but divergence), so that their trials run again."""
        for trial in self.load_configs():
            folder = self.trial(trial.number)
            if folder.exists(RESULT) and not folder.read_json(RESULT)["final"]:
                folder.delete(RESULT)

    def wall_seconds(self) -> float:
        """Seconds during which any trial ran, over all starts of the search."""
        spans = sorted(span for trial in self.load_configs() if (span := self._span(trial.number)) is not None)
        seconds, until = 0.0, 0.0
        for start, end in spans:
            seconds += max(0.0, end - max(start, until))
            until = max(until, end)
        return seconds

    def _span(self, number: int) -> tuple[float, float] | None:
        """(start, end) of a trial that ended, in Unix seconds."""
        folder = self.trial(number)
        if not folder.exists(RESULT):
            return None
        saved = folder.read_json(RESULT)
        return saved["ended"] - saved["seconds"], saved["ended"]

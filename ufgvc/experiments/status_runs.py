"""The runs of a data set as their folders show them: how far each is, its score, and whether it is stale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from ufgvc.core.storage import Store
from ufgvc.training.metrics_file import read_metrics

MODEL, CONFIG, REPORT = "model/model.json", "config.yaml", "report/metrics.json"
JOB, RESULT = "job.json", "result.json"
# Folders of a data set's runs that hold no training of one method.
OTHERS = ("auto", "benchmark", "evaluate", "pretrain", "promotion", "regions", "search")
OTHER_PHOTOGRAPHS = "trained on other photographs than the data set has now"
OTHER_MASKS = "trained on other masks than the data set has now"
_READERS = 8  # a thread waits for storage most of the time


@dataclass(frozen=True)
class RunScore:
    """k of n leaves right.  on: which leaves.  low, high: 95 % interval in [0, 1], None where it was not computed."""

    on: Literal["test", "held-out"]
    k: int
    n: int
    low: float | None = None
    high: float | None = None

    @property
    def value(self) -> float:
        """Share in [0, 1]."""
        return self.k / max(1, self.n)


@dataclass(frozen=True)
class RunStatus:
    """One training.  folder, model: URIs, the model None as long as it is not finished.

    epochs: finished ones.  validation: how the epoch was selected: last, holdout, kfold or test; "" if unknown.
    score: on the test leaves of now if it was evaluated, else on held-out leaves if there were any.
    stale: why it does not belong to the data set as it is now; "" if it does.
    has_threshold: whether it can call a leaf unknown.
    calibrated_since: whether it has one that its evaluation did not know.
    """

    method: str
    key: str
    folder: str
    model: str | None
    epochs: int
    validation: str = ""
    run_id: str | None = None
    score: RunScore | None = None
    stale: str = ""
    has_threshold: bool = False
    calibrated_since: bool = False

    @property
    def finished(self) -> bool:
        """Whether its model was written."""
        return self.model is not None

    @property
    def evaluated(self) -> bool:
        """Whether it was scored on the test leaves of now."""
        return self.score is not None and self.score.on == "test"


@dataclass(frozen=True)
class Trials:
    """Trainings of benchmarks, comparisons of methods and calibrations.  ended: those with a result, of `started`."""

    started: int
    ended: int


def read_runs(runs: Store, names: Sequence[str], data: str, masks: Mapping[str, str]) -> tuple[RunStatus, ...]:
    """The trainings below <runs>/<data set>: those of now before stale ones, the best score first.

    names: of all files there.  data: fingerprint of the images.  masks: fingerprint of the masks of each kind.
    """
    folders: dict[str, set[str]] = {}
    for name in names:
        method, _, rest = name.partition("/")
        key, _, file = rest.partition("/")
        if method not in OTHERS and file:
            folders.setdefault(f"{method}/{key}", set()).add(file)
    own = [folder for folder, files in folders.items() if CONFIG in files and JOB not in files]
    with ThreadPoolExecutor(_READERS) as pool:
        found = list(pool.map(lambda folder: _read_run(runs, folder, folders[folder], data, masks), own))
    return tuple(sorted(found, key=_order))


def read_trials(names: Sequence[str]) -> Trials:
    """names: of all files below <runs>/<data set>."""
    jobs = {name.removesuffix(f"/{JOB}") for name in names if name.endswith(f"/{JOB}")}
    ended = {name.removesuffix(f"/{RESULT}") for name in names if name.endswith(f"/{RESULT}")}
    return Trials(len(jobs), len(jobs & ended))


def _read_run(runs: Store, folder: str, files: set[str], data: str, masks: Mapping[str, str]) -> RunStatus:
    method, key = folder.split("/")
    store = runs.child(method, key)
    if MODEL not in files:
        config = yaml.safe_load(store.read_text(CONFIG)) or {}
        kind = (config.get("train") or {}).get("mask_kind")
        stale = _stale(config.get("data"), config.get("masks"), masks.get(str(kind)), data)
        return RunStatus(method, key, store.uri, None, len(read_metrics(store)), stale=stale)
    info = store.read_json(MODEL)
    fingerprints = info.get("fingerprints") or {}
    stale = _stale(fingerprints.get("data"), fingerprints.get("masks"), masks.get(str(info.get("mask_kind"))), data)
    report = store.read_json(REPORT) if REPORT in files else {}
    metrics = info.get("metrics") or {}
    evaluated = report.get("fingerprint") == data
    score = _test_score(report) if evaluated else _held_out_score(metrics, info)
    calibration = info.get("calibration") or {}
    has_threshold = calibration.get("threshold") is not None
    return RunStatus(
        method,
        key,
        store.uri,
        f"{store.uri}/model",
        int(metrics.get("epoch", 0)),
        info.get("validation") or "",
        info.get("run_id"),
        score,
        stale,
        has_threshold,
        has_threshold and evaluated and not _is_measured(calibration, report),
    )


def _stale(data: str | None, masks: str | None, masks_now: str | None, data_now: str) -> str:
    if data != data_now:
        return OTHER_PHOTOGRAPHS
    return OTHER_MASKS if masks and masks != masks_now else ""


def _is_measured(calibration: Mapping[str, Any], report: Mapping[str, Any]) -> bool:
    """Whether an evaluation was made with this calibration."""
    measured = next(iter(report["models"].values())).get("reliability") or {}
    return measured.get("unknown") is not None and measured.get("temperature") == calibration.get("temperature")


def _test_score(report: Mapping[str, Any]) -> RunScore:
    accuracy = next(iter(report["models"].values()))["accuracy"]
    return RunScore("test", accuracy["k"], accuracy["n"], accuracy["low"], accuracy["high"])


def _held_out_score(metrics: Mapping[str, Any], info: Mapping[str, Any]) -> RunScore | None:
    """None without held-out leaves. Those of `validation: test` are the test leaves, on which it was selected."""
    if "validation_correct" not in metrics or info.get("validation") == "test":
        return None
    return RunScore("held-out", int(metrics["validation_correct"]), int(metrics["validation_leaves"]))


def _order(run: RunStatus) -> tuple[Any, ...]:
    score = run.score.value if run.score else -1.0
    return bool(run.stale), not run.finished, not run.evaluated, -score, run.method, run.key

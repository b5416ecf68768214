"""Ray Tune's loop does not wait for the recording of a trial that ended."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ufgvc.core.storage import open_store
from ufgvc.experiments import search_trial, training_job
from ufgvc.experiments.resources import TrialResources
from ufgvc.experiments.runner import LOST
from ufgvc.experiments.search_store import TrialConfig
from ufgvc.experiments.settings import SearchSettings

RESOURCES = TrialResources({"CPU": 1.0}, max_concurrent=1, threads=1)


class Slow:
    """Waits, as MLflow may, until the loop has gone on."""

    def __init__(self) -> None:
        self.loop_went_on = threading.Event()
        self.seen: list[Any] = []

    def __call__(self, *ended: Any) -> None:
        assert self.loop_went_on.wait(10), "the loop waits for the recording of a trial"
        self.seen.append(ended)


def fake_job(name: str, folder: Path) -> Any:
    return SimpleNamespace(name=name, purpose="final", store=open_store(str(folder / name)))


def test_jobs_end_while_another_is_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    record, jobs = Slow(), [fake_job("done before", tmp_path), fake_job("ends now", tmp_path)]
    results = {"done before": {"train_accuracy": 1.0, "seconds": 1.0}}
    monkeypatch.setattr(training_job, "load_result", lambda job: results.get(job.name))

    def loop(items: list[int], execute: Any, on_end: Callable[[int, str | None], str], *_: Any, **__: Any) -> None:
        for item in items:
            results[jobs[item].name] = {"train_accuracy": 0.5, "seconds": 2.0}
            assert "50.0 %" in on_end(item, None)
        record.loop_went_on.set()

    jobs[0].store.write_bytes("checkpoints/state.pt", b"left by a kill after the result")
    monkeypatch.setattr(training_job, "run", loop)
    outcomes = training_job.run_jobs(jobs, RESOURCES, open_store(str(tmp_path)), 0, record)
    assert [outcome for (outcome,) in record.seen] == outcomes, "all are recorded, in order, when the call returns"
    assert not jobs[0].store.list()


@pytest.mark.parametrize("result", [None, {"train_accuracy": 1.0, "seconds": 1.0}])
def test_a_result_counts_though_the_process_was_lost(
    result: dict[str, float] | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    results: list[Any] = [None, result]
    monkeypatch.setattr(training_job, "load_result", lambda job: results.pop(0))
    monkeypatch.setattr(training_job, "run", lambda items, execute, on_end, *_, **__: on_end(0, LOST))
    (outcome,) = training_job.run_jobs(
        [fake_job("a", tmp_path)], RESOURCES, open_store(str(tmp_path)), 0, lambda outcome: None
    )
    assert (outcome.result, outcome.error) == (result, None if result else LOST)


def test_trials_end_while_another_is_recorded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    record, trials = Slow(), [TrialConfig(0, {}), TrialConfig(1, {})]
    result = SimpleNamespace(state="failed", error="no memory")
    log = SimpleNamespace(finished=[(trials[0], result)], unfinished=[], started=[trials[0]])
    store = SimpleNamespace(
        clear_failures=lambda: None,
        load_config=lambda number: trials[number],
        load_result=lambda trial: result,
        trial=None,
        folds=1,
        fold=lambda number, fold: open_store(str(tmp_path / f"{number}-{fold}")),
        folder="/tmp",
        train=SimpleNamespace(workers=1),
    )
    monkeypatch.setattr(search_trial, "TrialLog", SimpleNamespace(load=lambda store: log))
    monkeypatch.setattr(search_trial, "ResumableSearcher", lambda *_: SimpleNamespace(remaining=1))

    def loop(items: Any, execute: Any, on_end: Callable[[int, str | None], str], *_: Any, **__: Any) -> None:
        assert on_end(1, None) == "trial 1: failed: no memory"
        record.loop_went_on.set()

    monkeypatch.setattr(search_trial, "run", loop)
    settings = SearchSettings(early_stopping=False)
    search_trial.run_trials(store, settings, 1, RESOURCES, record)  # type: ignore[arg-type]
    assert record.seen == [(trials[0], result), (trials[1], result)]


def test_an_error_of_the_recording_is_raised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(outcome: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(training_job, "load_result", lambda job: {"correct": 1})
    with pytest.raises(OSError, match="the disk is full"):
        training_job.run_jobs([fake_job("a", tmp_path)], RESOURCES, open_store(str(tmp_path)), 0, fail)

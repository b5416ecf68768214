"""Tune's loop must not wait for what is done with a trial that ended."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ufgvc.core.storage import open_store
from ufgvc.experiments import search_runner as tuning
from ufgvc.experiments import trial_runner as trials
from ufgvc.experiments.settings import SearchSettings, TrialSettings


class Slow:
    """Waits, as MLflow may, until the loop has gone on."""

    def __init__(self) -> None:
        self.loop_went_on = threading.Event()
        self.seen: list[Any] = []

    def __call__(self, *told: Any) -> None:
        assert self.loop_went_on.wait(10), "the loop waits for the record of a trial"
        self.seen.append(told)


def test_a_benchmarks_loop_goes_on_while_a_training_is_recorded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    record, jobs = Slow(), [SimpleNamespace(name="done before"), SimpleNamespace(name="ends now")]
    monkeypatch.setattr(trials, "result_of", lambda job: {"correct": 1} if job is jobs[0] else None)

    def loop(jobs: Any, waiting: list[int], settings: Any, scratch: Any, done: Any, share: Any) -> dict[int, Any]:
        ends = {place: trials.Finished(jobs[place], {"correct": 2}) for place in waiting}
        for end in ends.values():
            done(end)
        record.loop_went_on.set()
        return ends

    monkeypatch.setattr(trials, "_tune", loop)
    ends = trials.run_all(jobs, TrialSettings(), open_store(str(tmp_path)), record)  # type: ignore[arg-type]
    assert [end for (end,) in record.seen] == ends, "all are recorded, in order, when the call returns"


def test_a_searchs_loop_goes_on_while_a_trial_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    record, before, now = Slow(), ("setting 0", "row 0"), ("setting 1", "row 1")
    ledger = SimpleNamespace(ended=[before], open=[], begun=1)
    study = SimpleNamespace(forget_failures=lambda: None)
    monkeypatch.setattr(tuning, "TrialLog", SimpleNamespace(of=lambda study: ledger))
    monkeypatch.setattr(tuning, "ResumableSearcher", lambda *told: SimpleNamespace(remaining=1))

    def loop(*told: Any) -> None:
        told[-1](*now)
        record.loop_went_on.set()

    monkeypatch.setattr(tuning, "_tune", loop)
    tuning.run_trials(study, SearchSettings(), 1, None, record)  # type: ignore[arg-type]
    assert record.seen == [before, now]


def test_what_goes_wrong_while_recording_is_raised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(end: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(trials, "result_of", lambda job: {"correct": 1})
    with pytest.raises(OSError, match="the disk is full"):
        trials.run_all([SimpleNamespace(name="a")], TrialSettings(), open_store(str(tmp_path)), fail)  # type: ignore[list-item]

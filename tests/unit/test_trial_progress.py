"""The line that says how far the trials of a benchmark or a search are."""

from __future__ import annotations

import pickle

import pytest

from ufgvc.core.errors import UserError
from ufgvc.experiments.trial_progress import TrialProgress


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_trials_that_end_and_trials_that_run_count() -> None:
    clock, shares = Clock(), {0: 0.0, 1: 0.0, 2: 0.0}
    progress = TrialProgress("trainings", 10, 2, shares.__getitem__, clock)
    clock.seconds = 500
    assert progress.line() == "trainings: 2 of 12 ended, 0 running, time left not known yet"
    progress.start(0)
    progress.start(1)
    clock.seconds += 60
    assert progress.line() == "trainings: 2 of 12 ended, 2 running, time left not known yet"
    shares |= {0: 0.75, 1: 0.25}
    # A tenth of the work of ten trainings took a minute, so the other nine tenths take nine.
    assert progress.line() == "trainings: 2 of 12 ended, 2 running, about 9 min left"
    progress.end(0)
    progress.start(2)
    clock.seconds += 60
    assert progress.line() == f"trainings: 3 of 12 ended, 2 running, about {120 * 8.75 / 1.25 / 60:.0f} min left"
    for item in (1, 2):
        progress.end(item)
    progress.start(0)
    progress.start(0)
    assert "5 of 12 ended, 1 running" in progress.line(), "a trial whose process was lost starts again"


def test_a_share_that_cannot_be_read_is_nothing() -> None:
    def share(item: int) -> float:
        raise UserError("storage failed")

    clock = Clock()
    progress = TrialProgress("trials", 2, 0, share, clock)
    progress.start(0)
    clock.seconds = 10
    assert progress.line() == "trials: 0 of 2 ended, 1 running, time left not known yet"


def test_a_share_is_between_none_and_all() -> None:
    clock = Clock()
    progress = TrialProgress("trials", 1, 0, lambda item: 1.5, clock)
    progress.start(0)
    clock.seconds = 10
    assert progress.line() == "trials: 0 of 1 ended, 1 running, about 0 s left"


def test_lines_come_by_themselves_until_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    waits: list[float] = []

    class Event:
        def wait(self, seconds: float) -> bool:
            waits.append(seconds)
            return len(waits) > 3

        def set(self) -> None:
            pass

    caplog.set_level("INFO")
    progress = TrialProgress("trials", 4, 0, lambda item: 0.0)
    monkeypatch.setattr(progress, "_stop", Event())
    with progress:
        pass
    assert waits == [30, 60, 60, 60], "the first within a minute, and one a minute at most"
    assert [record.message for record in caplog.records] == [
        "trials: 0 of 4 ended, 0 running, time left not known yet"
    ] * 3


def test_it_travels_with_the_callbacks_of_tune() -> None:
    with TrialProgress("trials", 4, 0, lambda item: 0.0) as progress:
        assert pickle.dumps(progress)

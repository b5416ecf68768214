"""A training begins while another process opens its run on MLflow; whatever is logged waits for that."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store
from ufgvc.tracking import background
from ufgvc.tracking.background import open_in_background, prepare_recording
from ufgvc.tracking.context import Context
from ufgvc.tracking.journal import Journal, Line
from ufgvc.tracking.recorder import RecorderLost
from ufgvc.tracking.runs import MlflowRun, NullRun, Run, start_run
from ufgvc.tracking.settings import TrackingSettings

NOWHERE = "http://127.0.0.1:9"


class StandIn:
    """A recorder in this process. It opens a run once `go_on` is set, and is lost after `answers` calls."""

    def __init__(self, answers: int = 100) -> None:
        self.go_on, self.answers = threading.Event(), answers
        self.runs, self.names = list[MlflowRun](), list[str]()

    def add(self, run: MlflowRun) -> int:
        self.runs.append(run)
        return len(self.runs) - 1

    def call(self, number: int, name: str, arguments: tuple[Any, ...]) -> Any:
        if len(self.names) == self.answers:
            raise RecorderLost
        assert self.go_on.wait(10)
        self.names.append(name)
        found = getattr(self.runs[number], name)
        return found(*arguments) if callable(found) else found


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    found = StandIn()
    monkeypatch.setattr(background, "_recorder", lambda location: found)
    return found


def start(folder: Path, uri: str = NOWHERE) -> Run:
    context = Context(runs=str(folder), tracking=TrackingSettings(uri=uri))
    return open_in_background(start_run(context, "leaves", "r", {}, {}, store=open_store(folder), connect_now=False))


def lines(folder: Path) -> list[Line]:
    return Journal(open_store(folder / "journal")).read_lines()


def test_calls_wait_until_the_run_is_open(tmp_path: Path, recorder: StandIn) -> None:
    run = start(tmp_path)
    logging = threading.Thread(target=run.log_steps, args=({1: {"loss": 1.0}},))
    logging.start()
    logging.join(0.1)
    assert logging.is_alive()
    assert lines(tmp_path) == []
    recorder.go_on.set()
    logging.join(10)
    assert recorder.names == ["open", "log_steps"]
    assert lines(tmp_path) == [Line(1, {"loss": 1.0})]


@pytest.mark.parametrize("answers", [0, 1, 2, 3])
def test_without_the_other_process_nothing_is_lost(tmp_path: Path, recorder: StandIn, answers: int) -> None:
    recorder.go_on.set()
    recorder.answers = answers
    run = start(tmp_path)
    run.log_metrics({"loss": 2.0}, 1)
    run.log_metrics({"loss": 1.0}, 2)
    run.log_text("hello", "notes/hello.txt")
    run.finish()
    assert run.id is None
    assert lines(tmp_path) == [Line(1, {"loss": 2.0}), Line(2, {"loss": 1.0})]
    journal = Journal(open_store(tmp_path / "journal"))
    assert journal.list_artifacts() == ["notes/hello.txt"]
    known = journal.read_identity()
    assert known is not None
    assert known["status"] == "FINISHED"


def test_what_is_wrong_with_the_settings_or_the_journal_is_said_at_once(tmp_path: Path, recorder: StandIn) -> None:
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI"):
        start_run(Context(runs="s3://bucket/runs"), "leaves", "r", {}, {}, connect_now=False)
    open_store(tmp_path).write_text("journal/run.json", "{half")
    with pytest.raises(UserError, match="damaged"):
        start(tmp_path)


def test_without_tracking_there_is_nothing_to_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "Recorder", None)  # it cannot be started
    prepare_recording(Context(runs=str(tmp_path), tracking=TrackingSettings(uri="off")))
    prepare_recording(Context(runs="s3://bucket/runs"))
    assert isinstance(start(tmp_path, "off"), NullRun)

"""A training begins while another process opens its run on MLflow; whatever is logged waits for that."""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from tests.unit.limits import files_left
from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store
from ufgvc.tracking import background
from ufgvc.tracking import recorder as recorder_module
from ufgvc.tracking.background import open_in_background, prepare_recording
from ufgvc.tracking.context import Context
from ufgvc.tracking.journal import Journal, Line
from ufgvc.tracking.recorder import Recorder, RecorderLost
from ufgvc.tracking.runs import MlflowRun, NullRun, Run, finish_run_on_exit, start_run
from ufgvc.tracking.settings import TrackingSettings

NOWHERE = "http://127.0.0.1:9"


class StandIn:
    """A recorder in this process. It opens a run once `go_on` is set, and is lost after `answers` calls."""

    def __init__(self, answers: int = 100) -> None:
        self.go_on, self.answers = threading.Event(), answers
        self.runs, self.names = list[MlflowRun](), list[str]()
        self.killed = False

    def add(self, run: MlflowRun) -> int:
        self.runs.append(run)
        return len(self.runs) - 1

    def call(self, number: int, name: str, arguments: tuple[Any, ...]) -> Any:
        if len(self.names) == self.answers:
            raise RecorderLost
        assert self.go_on.wait(10)
        if self.killed:
            raise RecorderLost
        self.names.append(name)
        found = getattr(self.runs[number], name)
        return found(*arguments) if callable(found) else found

    def kill(self) -> None:
        self.killed = True
        self.go_on.set()


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
    caller = threading.Thread(target=run.log_steps, args=({1: {"loss": 1.0}},))
    caller.start()
    caller.join(0.1)
    assert caller.is_alive()
    assert lines(tmp_path) == []
    recorder.go_on.set()
    caller.join(10)
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


def test_a_process_that_cannot_be_started_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    none: list[Recorder] = []
    monkeypatch.setattr(background, "_recorders", lambda: none)  # another test may have started it
    context = Context(runs=str(tmp_path), tracking=TrackingSettings(uri=NOWHERE))
    with files_left(4), caplog.at_level(logging.WARNING):
        prepare_recording(context)
        assert not caplog.records
        run = start(tmp_path)
    run.log_metrics({"loss": 2.0}, 1)
    run.finish()
    assert lines(tmp_path) == [Line(1, {"loss": 2.0})]
    first, *rest = (record.getMessage() for record in caplog.records)
    assert first.startswith("no process can be started for MLflow (Too many open files). The job continues")
    assert all("MLflow is unavailable" in message for message in rest)
    assert len(rest) == 1


def test_a_request_that_cannot_be_received_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the one that sent it would wait for ever."""
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    connection = Mock(recv_bytes=Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        recorder_module._receive(connection, queue.SimpleQueue())
    assert ended == [0]


def test_it_finds_what_a_notebook_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the first folder is "", the one in which it was started."""
    started = Mock()
    monkeypatch.setattr(recorder_module.subprocess, "Popen", started)
    monkeypatch.setattr(sys, "path", ["", "lib", "/site"])
    recorder_module._start(3, "mlflow")
    here = os.getcwd()
    assert started.call_args.kwargs["env"]["PYTHONPATH"].split(os.pathsep) == [here, f"{here}/lib", "/site"]


@pytest.fixture
def interrupts() -> Iterator[None]:
    """SIGALRM, for `signal.setitimer`, is Control-C; the second one is the last."""
    received: list[int] = []

    def interrupt(number: int, *_: object) -> None:
        received.append(number)
        if len(received) == 2:
            signal.setitimer(signal.ITIMER_REAL, 0)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def log_model(run: Run) -> None:
    """Logs a folder that is removed afterwards, as that of a model."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "weights").write_bytes(b"1")
        run.log_folder(Path(folder), "model")


def test_an_interrupt_leaves_the_folder_until_it_is_sent(
    tmp_path: Path, recorder: StandIn, interrupts: None, caplog: pytest.LogCaptureFixture
) -> None:
    run = start(tmp_path)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    threading.Timer(0.5, recorder.go_on.set).start()
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt), finish_run_on_exit(run):
        log_model(run)
    journal = Journal(open_store(tmp_path / "journal"))
    assert journal.list_artifacts() == ["model/weights"]
    assert (journal.read_identity() or {})["status"] == "KILLED"
    assert [record.getMessage() for record in caplog.records if "listens" not in record.getMessage()] == []


def test_a_second_interrupt_waits_for_nothing_and_the_journal_knows_the_end(
    tmp_path: Path, recorder: StandIn, interrupts: None, caplog: pytest.LogCaptureFixture
) -> None:
    run = start(tmp_path)
    signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt), finish_run_on_exit(run):
        log_model(run)
    assert recorder.killed
    assert not caplog.records
    known = Journal(open_store(tmp_path / "journal")).read_identity()
    assert known is not None
    assert known["status"] == "KILLED"

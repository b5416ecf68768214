"""The process that records a training on MLflow: it records what this process would, and ends with the training."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store
from ufgvc.tracking.background import open_in_background
from ufgvc.tracking.context import Context
from ufgvc.tracking.journal import Journal, Line
from ufgvc.tracking.recorder import Recorder, RecorderLost
from ufgvc.tracking.runs import MlflowRun, Run, finish_run_on_exit, start_run
from ufgvc.tracking.settings import TrackingSettings, resolve

STARTS = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what a shell starts in the background
from ufgvc.tracking.background import _recorders, prepare_recording
from ufgvc.tracking.context import Context
prepare_recording(Context(runs=sys.argv[1]))
print(_recorders()[0]._process.pid, flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture(autouse=True)
def _no_server_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def begin(folder: Path, **tracking: Any) -> Run:
    context = Context(runs=str(folder), tracking=TrackingSettings(**tracking))
    store = open_store(folder / "run")
    return start_run(context, "leaves", "r", {"train": {"epochs": 2}}, {"a": 1}, store=store, connect_now=False)


def use(run: Run, folder: Path) -> None:
    with finish_run_on_exit(run):
        run.log_steps({1: {"loss": 2.0, "accuracy": 0.5}, 2: {"loss": 1.0}})
        run.log_metrics({"loss": 7.0}, 2)  # a step has one value
        run.log_json({"a": 1}, "notes/a.json")
        run.log_artifact_bytes("b.bin", b"\0\1")
        (folder / "model" / "code").mkdir(parents=True, exist_ok=True)
        (folder / "model" / "code" / "x.py").write_text("1\n")
        run.log_folder(folder / "model", "model")
        run.set_tags({"b": "two"})


def content(folder: Path, run_id: str | None) -> dict[str, Any]:
    """All that MLflow has of a run, without times and ids."""
    from mlflow import MlflowClient

    location = resolve(TrackingSettings(), str(folder))
    assert location is not None
    client = MlflowClient(location.uri, location.uri)
    found = client.get_run(str(run_id))
    names = sorted(found.data.metrics)
    root = folder / "mlartifacts" / str(run_id) / "artifacts"
    return {
        "status": found.info.status,
        "params": found.data.params,
        "tags": {key: value for key, value in found.data.tags.items() if key != "ufgvc.key"},
        "metrics": {name: [(m.step, m.value) for m in client.get_metric_history(str(run_id), name)] for name in names},
        "files": {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()},
    }


def test_it_records_what_this_process_would(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    ours, other = begin(here), open_in_background(begin(there))
    for run, folder in ((ours, here), (other, there)):
        use(run, folder)
    assert isinstance(ours, MlflowRun)
    assert content(there, other.id) == content(here, ours.id)
    assert content(here, ours.id)["files"]
    journals = [Journal(open_store(folder / "run" / "journal")) for folder in (here, there)]
    assert journals[0].read_lines() == journals[1].read_lines()
    known = [journal.read_identity() or {} for journal in journals]
    assert [each["sent"] for each in known] == [2, 2]
    assert known[1]["id"] == other.id


def test_a_killed_one_loses_nothing(tmp_path: Path) -> None:
    from ufgvc.tracking.background import _recorders

    run = open_in_background(begin(tmp_path))
    run.log_metrics({"loss": 2.0}, 1)
    first = run.id
    _recorders()[0]._process.kill()
    _recorders()[0]._process.wait()
    use(run, tmp_path)
    found = content(tmp_path, run.id)
    assert run.id == first
    assert found["metrics"] == {"accuracy": [(1, 0.5)], "loss": [(1, 2.0), (2, 1.0)]}
    assert found["status"] == "FINISHED"
    following = open_in_background(begin(tmp_path / "following"))
    assert following.id
    assert _recorders()[0].is_alive


def test_what_it_says_and_refuses_comes_here(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        run = open_in_background(begin(tmp_path, uri="http://127.0.0.1:9"))
        run.log_metrics({"loss": 1.0}, 1)
    (warning,) = caplog.records
    assert "nothing listens at http://127.0.0.1:9" in warning.getMessage()
    assert Journal(open_store(tmp_path / "run" / "journal")).read_lines() == [Line(1, {"loss": 1.0})]
    (tmp_path / "run" / "journal" / "artifacts").write_text("a file where a folder must be")
    with pytest.raises(UserError, match="artifacts"):
        run.log_text("hello", "a/hello.txt")
    run.log_metrics({"loss": 0.5}, 2)  # it goes on
    assert run.id is None


def test_an_error_of_the_program_is_raised_here(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = open_in_background(begin(tmp_path, uri="http://127.0.0.1:9"))
    with pytest.raises(ValueError, match="could not convert"):
        run.log_metrics({"loss": "one"}, 1)  # type: ignore[dict-item]


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", STARTS, str(tmp_path), "60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_its_owner(owner: subprocess.Popen[str], number: signal.Signals) -> None:
    assert owner.stdout is not None
    recorder = psutil.Process(int(owner.stdout.readline()))
    time.sleep(0.5)  # it is importing
    os.killpg(owner.pid, number)
    owner.wait(30)
    recorder.wait(10)


def test_an_owner_that_ends_leaves_nothing_and_waits_for_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STARTS, str(tmp_path), "0"], capture_output=True, text=True, check=True
    )
    assert not psutil.pid_exists(int(done.stdout))
    assert done.stderr == ""
    assert not (tmp_path / "mlflow.db").exists()


def test_requests_to_one_that_ended_are_refused(tmp_path: Path) -> None:
    location = resolve(TrackingSettings(uri="http://127.0.0.1:9"), str(tmp_path))
    assert location is not None
    recorder = Recorder(location)
    recorder._process.kill()
    recorder._process.wait()
    assert not recorder.is_alive
    with pytest.raises(RecorderLost):
        recorder.call(0, "id", ())


def test_a_second_interrupt_does_not_wait_for_a_recorder_that_does_not_answer(tmp_path: Path) -> None:
    run = open_in_background(begin(tmp_path))
    run.log_metrics({"loss": 1.0}, 1)
    recorder = run._recorder  # type: ignore[attr-defined]
    os.kill(recorder._process.pid, signal.SIGSTOP)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            run.finish("KILLED")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not recorder.is_alive
    run._calls.shutdown(wait=True)  # type: ignore[attr-defined]  # what Python waits for at its end


def test_an_interrupt_while_a_model_is_sent_leaves_the_whole_model(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = open_in_background(begin(tmp_path))
    run.log_metrics({"loss": 1.0}, 1)
    recorder = run._recorder._process.pid  # type: ignore[attr-defined]
    os.kill(recorder, signal.SIGSTOP)
    threading.Timer(1.0, os.kill, (recorder, signal.SIGCONT)).start()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt), finish_run_on_exit(run):
            send_model(run)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not caplog.records
    found = content(tmp_path, run.id)
    assert found["status"] == "KILLED"
    assert {str(path) for path in found["files"]} == {"config.yaml", *(f"model/{number}.bin" for number in range(20))}


def send_model(run: Run) -> None:
    """Sends a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(20):
            (Path(folder) / f"{number}.bin").write_bytes(bytes(1 << 16))
        run.log_folder(Path(folder), "model")

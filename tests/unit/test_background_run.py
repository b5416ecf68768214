"""A training begins while MLflow is imported and its database made; whatever is logged waits for that."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store
from ufgvc.tracking.background import open_in_background
from ufgvc.tracking.context import Context
from ufgvc.tracking.journal import Journal, Line
from ufgvc.tracking.runs import MlflowRun, NullRun, Run, start_run
from ufgvc.tracking.settings import TrackingSettings


def start(folder: Path, uri: str | None = None) -> Run:
    context = Context(runs=str(folder), tracking=TrackingSettings(uri=uri))
    return open_in_background(start_run(context, "leaves", "r", {}, {}, store=open_store(folder), connect_now=False))


def test_calls_wait_until_the_run_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, done = threading.Event(), list[str]()

    def slow(run: MlflowRun) -> None:
        assert go_on.wait(10)
        done.append("opened")

    monkeypatch.setattr(MlflowRun, "open", slow)
    monkeypatch.setattr(MlflowRun, "log_steps", lambda run, steps: done.append("logged"))
    run = start(tmp_path)
    logging = threading.Thread(target=run.log_steps, args=({1: {"loss": 1.0}},))
    logging.start()
    assert done == []
    go_on.set()
    logging.join(10)
    assert done == ["opened", "logged"]


def test_without_mlflow_the_journal_keeps_it(tmp_path: Path) -> None:
    run = start(tmp_path, "http://127.0.0.1:9")
    run.log_metrics({"loss": 1.0}, 1)
    run.finish()
    assert run.id is None
    assert Journal(open_store(tmp_path / "journal")).read_lines() == [Line(1, {"loss": 1.0})]


def test_what_is_wrong_with_the_settings_or_the_journal_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI"):
        start_run(Context(runs="s3://bucket/runs"), "leaves", "r", {}, {}, connect_now=False)
    open_store(tmp_path).write_text("journal/run.json", "{half")
    with pytest.raises(UserError, match="damaged"):
        start(tmp_path)


def test_without_tracking_there_is_nothing_to_open(tmp_path: Path) -> None:
    assert isinstance(start(tmp_path, "off"), NullRun)

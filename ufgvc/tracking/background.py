"""A run that another process opens on MLflow, whose import and new database take seconds, while the training begins."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ufgvc.core.errors import UserError
from ufgvc.tracking.context import Context
from ufgvc.tracking.recorder import Recorder, RecorderLost
from ufgvc.tracking.runs import MlflowRun, Run
from ufgvc.tracking.settings import MlflowLocation, resolve

log = logging.getLogger(__name__)


def prepare_recording(context: Context) -> None:
    """Starts the process that will record a run, so that it imports MLflow while this process imports other things."""
    with contextlib.suppress(UserError, RecorderLost):  # which `start_run` will raise, or `open_in_background` handle
        location = resolve(context.tracking, context.runs)
        if location is not None:
            _recorder(location)


def open_in_background(run: Run) -> Run:
    """The run, opened by another process; each call of it waits for that.  run: of `start_run` with
    `connect_now=False`.
    """
    return BackgroundRun(run) if isinstance(run, MlflowRun) else run


@functools.cache
def _recorders() -> list[Recorder]:
    """The process that records the runs of this one, once there is one."""
    return []


def _recorder(location: MlflowLocation) -> Recorder:
    known = _recorders()
    if not known or not known[-1].is_alive:
        known[:] = [Recorder(location)]
    return known[0]


class BackgroundRun:
    """See `open_in_background`. Without the other process, this one goes on with what the run's journal has."""

    def __init__(self, run: MlflowRun) -> None:
        self._run = run
        self._recorder: Recorder | None = None
        try:
            self._recorder = _recorder(run.location)
        except RecorderLost as lost:
            log.warning("no process can be started for MLflow (%s). The job continues, and records by itself.", lost)
        # One thread for all calls: an interrupt ends the waiting for an answer, and the next call comes after it.
        self._calls = ThreadPoolExecutor(1, thread_name_prefix="mlflow")
        self._number: int | None = None
        self._given_up = False
        self._begin("open")

    def _begin(self, name: str, *arguments: Any) -> Future[Any]:
        return self._calls.submit(self._call, name, arguments)

    def _call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        if self._recorder is not None:
            try:
                if self._number is None:
                    self._number = self._recorder.add(self._run)
                return self._recorder.call(self._number, name, arguments)
            except RecorderLost:
                self._recorder, self._run = None, self._run.reread()
        if self._given_up:  # the journal has what was not sent
            if name == "finish":
                self._run.finish(arguments[0], send=False)
            return None
        found = getattr(self._run, name)
        return found(*arguments) if callable(found) else found

    @property
    def id(self) -> str | None:
        """See `Run`, as all that follows."""
        found: str | None = self._begin("id").result()
        return found

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Records metrics of a step."""
        self._begin("log_metrics", dict(metrics), step).result()

    def log_steps(self, steps: Mapping[int, Mapping[str, float]]) -> None:
        """Records metrics of several steps."""
        self._begin("log_steps", dict(steps)).result()

    def log_artifact_bytes(self, name: str, data: bytes) -> None:
        """Stores an artifact."""
        self._begin("log_artifact_bytes", name, data).result()

    def log_text(self, text: str, name: str) -> None:
        """Stores a text artifact."""
        self._begin("log_text", text, name).result()

    def log_json(self, value: Any, name: str) -> None:
        """Stores a JSON artifact."""
        self._begin("log_json", value, name).result()

    def log_folder(self, folder: Path, name: str) -> None:
        """Stores a folder as artifacts below `name`. The folder may be temporary: an interrupt is raised when it is no
        longer needed.
        """
        sent = self._begin("log_folder", folder, name)
        try:
            sent.result()
        except KeyboardInterrupt:
            self._wait(sent)
            raise

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Sets tags."""
        self._begin("set_tags", dict(tags)).result()

    def finish(self, status: str = "FINISHED") -> None:
        """Ends the run with an MLflow status."""
        self._wait(self._begin("finish", status))

    def _wait(self, call: Future[Any]) -> None:
        """Waits for a call after an interrupt. Another interrupt ends the waiting for MLflow."""
        try:
            call.result()
        except KeyboardInterrupt:
            self._given_up = True
            recorder = self._recorder  # the thread of the calls may find it lost meanwhile
            if recorder is not None:
                recorder.kill()
            raise

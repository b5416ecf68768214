"""A run that a thread opens on MLflow, whose import and new database take seconds, while the training begins."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from ufgvc.tracking.runs import MlflowRun, Run


def open_in_background(run: Run) -> Run:
    """The run, opened by a thread; each call of it waits for that.  run: of `start_run` with `connect_now=False`."""
    return BackgroundRun(run) if isinstance(run, MlflowRun) else run


class BackgroundRun:
    """See `open_in_background`."""

    def __init__(self, run: MlflowRun) -> None:
        pool = ThreadPoolExecutor(1, thread_name_prefix="mlflow")
        self._run, self._opened = run, pool.submit(run.open)
        pool.shutdown(wait=False)

    def _wait(self) -> MlflowRun:
        """The run, which opens itself where the thread could not, and says why it cannot."""
        wait([self._opened])
        return self._run

    @property
    def id(self) -> str | None:
        """See `Run`, as all that follows."""
        return self._wait().id

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Records metrics of a step."""
        self._wait().log_metrics(metrics, step)

    def log_steps(self, steps: Mapping[int, Mapping[str, float]]) -> None:
        """Records metrics of several steps."""
        self._wait().log_steps(steps)

    def log_artifact_bytes(self, name: str, data: bytes) -> None:
        """Stores an artifact."""
        self._wait().log_artifact_bytes(name, data)

    def log_text(self, text: str, name: str) -> None:
        """Stores a text artifact."""
        self._wait().log_text(text, name)

    def log_json(self, value: Any, name: str) -> None:
        """Stores a JSON artifact."""
        self._wait().log_json(value, name)

    def log_folder(self, folder: Path, name: str) -> None:
        """Stores a folder as artifacts below `name`."""
        self._wait().log_folder(folder, name)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Sets tags."""
        self._wait().set_tags(tags)

    def finish(self, status: str = "FINISHED") -> None:
        """Ends the run with an MLflow status."""
        self._wait().finish(status)

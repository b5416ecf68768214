"""Runs on MLflow. Recording never stops a job: what MLflow cannot receive now stays in the run's journal."""

from __future__ import annotations

import contextlib
import json
import logging
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from ufgvc.core.storage import Store
from ufgvc.tracking.client import MlflowNotFound, MlflowUnavailable, map_errors
from ufgvc.tracking.context import Context
from ufgvc.tracking.journal import Journal, Line
from ufgvc.tracking.settings import MlflowLocation, redact, redact_values, resolve, version_tags
from ufgvc.tracking.sync import open_run, send_files, send_lines, send_metrics

log = logging.getLogger(__name__)
RETRY_AFTER = 30.0  # seconds without another attempt after one that failed


class Run(Protocol):
    """A run that is recorded.  id: MLflow's id; None until MLflow has created it."""

    @property
    def id(self) -> str | None:
        """MLflow's id; None until MLflow has created the run."""

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Records metrics of a step; again for the same step changes nothing."""

    def log_steps(self, steps: Mapping[int, Mapping[str, float]]) -> None:
        """The same for several steps at once."""

    def log_artifact_bytes(self, name: str, data: bytes) -> None:
        """Stores an artifact."""

    def log_text(self, text: str, name: str) -> None:
        """Stores a text artifact."""

    def log_json(self, value: Any, name: str) -> None:
        """Stores a JSON artifact."""

    def log_folder(self, folder: Path, name: str) -> None:
        """Stores a folder as artifacts below `name`."""

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Sets tags."""

    def finish(self, status: str = "FINISHED") -> None:
        """Ends the run with an MLflow status."""


class NullRun:
    """The run while tracking is off: every method does nothing."""

    id: str | None = None

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Does nothing."""

    def log_steps(self, steps: Mapping[int, Mapping[str, float]]) -> None:
        """Does nothing."""

    def log_artifact_bytes(self, name: str, data: bytes) -> None:
        """Does nothing."""

    def log_text(self, text: str, name: str) -> None:
        """Does nothing."""

    def log_json(self, value: Any, name: str) -> None:
        """Does nothing."""

    def log_folder(self, folder: Path, name: str) -> None:
        """Does nothing."""

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Does nothing."""

    def finish(self, status: str = "FINISHED") -> None:
        """Does nothing."""


def start_run(
    context: Context,
    experiment: str,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, Any],
    parent: str | None = None,
    run_id: str | None = None,
    store: Store | None = None,
    connect_now: bool = True,
) -> Run:
    """Starts a run, or resumes the one of `run_id` or of the journal. Does not fail while MLflow is unavailable.

    Args:
        context: names the MLflow to use.
        experiment: MLflow's experiment unless `context.tracking` names one; usually the name of the data set.
        name: of the run.
        params: nested settings; logged as flat parameters, and as config.yaml.
        tags: of the run; the versions and the commit are added.
        parent: id of the run in which this one is nested.
        run_id: of an existing run to resume.
        store: the run folder, in which `journal/` is written; None: what cannot be sent is lost (short runs).
        connect_now: False leaves it to `MlflowRun.open`, or to the first call.

    Raises:
        UserError: no MLflow is named, and none can be created in the runs folder.
    """
    location = resolve(context.tracking, context.runs)
    if location is None:
        return NullRun()
    journal = Journal(store.child("journal")) if store is not None else None
    known = journal.read_identity() if journal else None
    if known and run_id and known["id"] not in (None, run_id):
        known = None
    identity: dict[str, Any] = known or {
        "id": run_id,
        "key": uuid.uuid4().hex,
        "experiment": context.tracking.experiment or experiment,
        "name": name,
        "parent": parent,
        "started_ms": int(time.time() * 1000),
        "config": redact_values(params),
        "tags": {},
        "status": None,
        "described": False,
        "sent": 0,
    }
    identity |= {"id": run_id or identity["id"], "status": None, "described": False}
    identity["tags"] |= {**version_tags(), **{key: redact(str(value)) for key, value in tags.items()}}
    run = MlflowRun(location, journal, identity)
    if connect_now:
        run.open()
    return run


@contextlib.contextmanager
def finish_run_on_exit(run: Run) -> Iterator[Run]:
    """Finishes the run with the block: FINISHED, KILLED after KeyboardInterrupt (Control-C, `ray job stop`), FAILED
    after other errors.
    """
    try:
        yield run
    except KeyboardInterrupt:
        run.finish("KILLED")
        raise
    except BaseException:
        run.finish("FAILED")
        raise
    run.finish()


class MlflowRun:
    """A run that is recorded by MLflow: at once, or by `ufgvc sync` from its journal."""

    def __init__(self, location: MlflowLocation, journal: Journal | None, identity: dict[str, Any]) -> None:
        self._location, self._journal, self._identity = location, journal, identity
        self._client: Any = None
        self._failed_at: float | None = None
        self._warned = False
        self._unsent = bool(journal and self._pending())
        self._save_identity()

    @property
    def location(self) -> MlflowLocation:
        """The MLflow that records it."""
        return self._location

    def reread(self) -> MlflowRun:
        """The same run with what its journal has, which another process wrote."""
        journal = Journal(self._journal.store) if self._journal is not None else None
        known = journal.read_identity() if journal else None
        return MlflowRun(self._location, journal, (known or self._identity) | {"described": False})

    def open(self) -> None:
        """Creates or resumes the run on MLflow, unless it is unavailable."""
        self._try(lambda: None)

    @property
    def id(self) -> str | None:
        """MLflow's id of the run; None until MLflow has answered."""
        found: str | None = self._identity["id"]
        return found

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """See `log_steps`."""
        self.log_steps({step: metrics})

    def log_steps(self, steps: Mapping[int, Mapping[str, float]]) -> None:
        """Logs metrics of steps (epochs), to the journal first. A value that a step has is not logged again."""
        if self._journal is None:
            lines = [Line(step, dict(metrics)) for step, metrics in steps.items()]
            self._try(lambda: send_metrics(self._client, self._identity, lines))
            return
        if self._journal.append(steps):
            self._unsent = True
        if self._unsent:
            self._try(self._send_steps)

    def log_artifact_bytes(self, name: str, data: bytes) -> None:
        """Logs a small file by its content and its name ("report/page.html")."""
        if self._journal is None:
            self._try(lambda: send_files(self._client, self._identity, {name: data}))
            return
        self._journal.write_artifact(name, data)
        self._try(self._send_artifacts)

    def log_text(self, text: str, name: str) -> None:
        """Logs a text file."""
        self.log_artifact_bytes(name, text.encode("utf-8"))

    def log_json(self, value: Any, name: str) -> None:
        """Logs a value as a JSON file."""
        self.log_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", name)

    def log_folder(self, folder: Path, name: str) -> None:
        """Logs the files of a local folder below `name`."""

        def send() -> None:
            with map_errors():
                self._client.log_artifacts(self.id, str(folder), name)

        if not self._try(send) and self._journal is not None:
            self._journal.write_artifacts(folder, name)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Adds or replaces tags of the run."""
        self._identity["tags"] |= {key: redact(str(value)) for key, value in tags.items()}
        self._identity["described"] = False
        self._save_identity()
        self._try(lambda: None)

    def finish(self, status: str = "FINISHED", send: bool = True) -> None:
        """Ends the run: FINISHED, FAILED or KILLED. What was not sent stays in the journal for `ufgvc sync`."""
        self._identity |= {"status": status, "described": False}
        self._save_identity()
        if send:
            self._failed_at = None  # the last attempt is made however recently one failed
            self._try(self._send_rest)

    def _send_steps(self) -> None:
        assert self._journal is not None
        send_lines(self._client, self._identity, self._pending(), self._journal)
        self._unsent = False

    def _pending(self) -> list[Line]:
        return self._journal.read_lines()[self._identity["sent"] :] if self._journal else []

    def _send_artifacts(self) -> None:
        assert self._journal is not None
        for name in self._journal.list_artifacts():
            send_files(self._client, self._identity, {name: self._journal.read_artifact(name)})
            self._journal.delete_artifact(name)

    def _send_rest(self) -> None:
        if self._journal is not None:
            self._send_steps()
            self._send_artifacts()

    def _try(self, send: Any) -> bool:
        """Calls `send` with the run created and described on MLflow.

        False, and one warning for each run, if MLflow is unavailable.
        """
        if self._failed_at is not None and time.monotonic() - self._failed_at < RETRY_AFTER:
            return False
        try:
            if self._client is None or not self._identity["described"]:
                self._client, recreated = open_run(self._location, self._identity)
                if recreated:
                    self._identity["sent"] = 0
                    self._unsent = self._journal is not None
                self._identity["described"] = True
                self._save_identity()
            send()
        except (MlflowUnavailable, MlflowNotFound) as error:
            self._client, self._failed_at = None, time.monotonic()
            if not self._warned:
                self._warned = True
                later = (
                    "the journal of the run keeps what was not sent; `ufgvc sync` sends it"
                    if self._journal is not None
                    else "this run is not recorded"
                )
                log.warning("MLflow is unavailable (%s). The job continues: %s.", error, later)
            return False
        self._failed_at = None
        return True

    def _save_identity(self) -> None:
        if self._journal is not None:
            self._journal.write_identity(self._identity)

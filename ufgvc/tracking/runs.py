"""A run on MLflow. It never stops a job: what MLflow cannot take now waits in the journal."""

from __future__ import annotations

import contextlib
import json
import logging
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from ufgvc.core.errors import UserError
from ufgvc.core.process import git_commit, versions
from ufgvc.core.storage import Store
from ufgvc.tracking.client import MlflowNotFound, MlflowUnavailable, connect, map_errors
from ufgvc.tracking.context import Context
from ufgvc.tracking.journal import Journal
from ufgvc.tracking.settings import MlflowLocation, redact, redact_values, resolve
from ufgvc.tracking.sync import deliver, deliver_artifacts, open_run

log = logging.getLogger(__name__)
RETRY_AFTER = 30.0  # seconds that a server which was away is left alone


class Run(Protocol):
    """A recorded piece of work.  id: MLflow's id of it; None while MLflow does not know it."""

    @property
    def id(self) -> str | None: ...
    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None: ...
    def log_artifact_bytes(self, name: str, data: bytes) -> None: ...
    def log_text(self, text: str, name: str) -> None: ...
    def log_json(self, value: Any, name: str) -> None: ...
    def log_folder(self, folder: Path, name: str) -> None: ...
    def set_tags(self, tags: Mapping[str, Any]) -> None: ...
    def finish(self, status: str = "FINISHED") -> None: ...


class NullRun:
    """Tracking is off: everything is accepted and nothing is kept."""

    id: str | None = None

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Keeps nothing."""

    def log_artifact_bytes(self, name: str, data: bytes) -> None:
        """Keeps nothing."""

    def log_text(self, text: str, name: str) -> None:
        """Keeps nothing."""

    def log_json(self, value: Any, name: str) -> None:
        """Keeps nothing."""

    def log_folder(self, folder: Path, name: str) -> None:
        """Keeps nothing."""

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Keeps nothing."""

    def finish(self, status: str = "FINISHED") -> None:
        """Keeps nothing."""


def start_run(
    context: Context,
    experiment: str,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, Any],
    parent: str | None = None,
    run_id: str | None = None,
    store: Store | None = None,
) -> Run:
    """Begins a run, or goes on with one: with `run_id`, or with the run that the journal remembers.

    experiment: MLflow's experiment unless `context.tracking` names another (the data set's name).  params: settings of any depth; written
    flat, and whole as config.yaml.  parent: id of the run that this one is nested in.  store: the run folder, under which `journal/`
    is kept; None: nothing is kept for later (short-lived runs).  Does not fail when MLflow is away; UserError if no MLflow is named
    and none can be made.
    """
    place = resolve(context.tracking, context.runs)
    if place is None:
        return NullRun()
    kept = Journal(store.child("journal")) if store is not None else None
    known = kept.identity() if kept else None
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
    }
    identity |= {"id": run_id or identity["id"], "status": None, "described": False}
    identity["tags"] |= {**_origin(), **{key: redact(str(value)) for key, value in tags.items()}}
    return MlflowRun(place, kept, identity)


def require_mlflow(context: Context) -> None:
    """UserError if an MLflow server is named and nobody answers there: for a long job that has not begun, a wrong address is a mistake."""
    place = resolve(context.tracking, context.runs)
    if place is None:
        return
    try:
        connect(place)
    except MlflowUnavailable as error:
        fix = (
            "start the server, check MLFLOW_TRACKING_URI or --tracking.uri, or record nothing with `--tracking.uri off`"
        )
        raise UserError(f"MLflow can not be reached: {error}", where=redact(place.uri), fix=error.fix or fix) from None


@contextlib.contextmanager
def finish_run_on_exit(run: Run) -> Iterator[Run]:
    """The run ends with the block: FINISHED, KILLED if it was stopped (Control-C, `ray job stop`), FAILED for any other error."""
    try:
        yield run
    except KeyboardInterrupt:
        run.finish("KILLED")
        raise
    except BaseException:
        run.finish("FAILED")
        raise
    run.finish()


def _origin() -> dict[str, str]:
    """Where the numbers come from: the commit and the versions."""
    found = {f"version.{package}": version for package, version in versions().items()}
    commit = git_commit()
    return found | ({"git.commit": commit} if commit else {})


class MlflowRun:
    """A run that MLflow records, sooner or later."""

    def __init__(self, place: MlflowLocation, journal: Journal | None, identity: dict[str, Any]) -> None:
        self._place, self._journal, self._identity = place, journal, identity
        self._client: Any = None
        self._away_since: float | None = None
        self._warned = False
        self._behind = bool(journal and journal.pending())
        self._keep()
        self._try(lambda: None)

    @property
    def id(self) -> str | None:
        found: str | None = self._identity["id"]
        return found

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Records metrics of a step (an epoch). First into the journal; a value that the step has already is not recorded twice."""
        if self._journal is None:
            self._try(lambda: deliver(self._client, self._identity, step, metrics))
            return
        if self._journal.append(step, metrics):
            self._behind = True
        if self._behind:
            self._try(self._send_steps)

    def log_artifact_bytes(self, name: str, data: bytes) -> None:
        """Records a small file under its name ("report/page.html")."""
        if self._journal is None:
            self._try(lambda: deliver_artifacts(self._client, self._identity, {name: data}))
            return
        self._journal.keep_bytes(name, data)
        self._try(self._send_artifacts)

    def log_text(self, text: str, name: str) -> None:
        self.log_artifact_bytes(name, text.encode("utf-8"))

    def log_json(self, value: Any, name: str) -> None:
        self.log_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", name)

    def log_folder(self, folder: Path, name: str) -> None:
        """Records a local folder's files below `name`."""

        def send() -> None:
            with map_errors():
                self._client.log_artifacts(self.id, str(folder), name)

        if not self._try(send) and self._journal is not None:
            self._journal.keep_folder(folder, name)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        self._identity["tags"] |= {key: redact(str(value)) for key, value in tags.items()}
        self._identity["described"] = False
        self._keep()
        self._try(lambda: None)

    def finish(self, status: str = "FINISHED") -> None:
        """Ends the run: FINISHED, FAILED or KILLED. What is still unsent stays for `ufgvc sync`."""
        self._identity |= {"status": status, "described": False}
        self._keep()
        self._away_since = None  # the last chance: ask once more, however recently the server was away
        self._try(self._send_rest)

    def _send_steps(self) -> None:
        assert self._journal is not None
        for step in self._journal.pending():
            deliver(self._client, self._identity, step, self._journal.read(step))
            self._journal.mark_sent(step)
        self._behind = False

    def _send_artifacts(self) -> None:
        assert self._journal is not None
        for name in self._journal.artifacts():
            deliver_artifacts(self._client, self._identity, {name: self._journal.artifact(name)})
            self._journal.drop_artifact(name)

    def _send_rest(self) -> None:
        if self._journal is not None:
            self._send_steps()
            self._send_artifacts()

    def _try(self, send: Any) -> bool:
        """Does `send` when MLflow is there and knows the run as it now is. One warning when it is not."""
        if self._away_since is not None and time.monotonic() - self._away_since < RETRY_AFTER:
            return False
        try:
            if self._client is None or not self._identity["described"]:
                before = self.id
                self._client, moved = open_run(self._place, self._identity)
                if moved and self._journal is not None:
                    self._journal.forget_sent()
                    self._behind = True
                if before != self.id or moved:
                    self._keep()
                self._identity["described"] = True
                self._keep()
            send()
        except (MlflowUnavailable, MlflowNotFound) as error:
            self._client, self._away_since = None, time.monotonic()
            if not self._warned:
                self._warned = True
                later = (
                    "what it misses is kept with the run; `ufgvc sync` sends it"
                    if self._journal is not None
                    else "this run is not recorded"
                )
                log.warning("MLflow is away (%s). Work goes on: %s.", error, later)
            return False
        self._away_since = None
        return True

    def _keep(self) -> None:
        if self._journal is not None:
            self._journal.keep_identity(self._identity)

"""Sends runs to MLflow: while they are running, and from their journals with `ufgvc sync`."""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ufgvc.core.config import flatten, to_yaml
from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store
from ufgvc.tracking.client import MlflowNotFound, MlflowUnavailable, connect, map_errors
from ufgvc.tracking.context import Context
from ufgvc.tracking.journal import Journal, Line
from ufgvc.tracking.settings import MlflowLocation, redact, resolve

_KEY_TAG = "ufgvc.key"
_MAX_PARAMS = 100  # limits of one log-batch request
_MAX_METRICS = 1000
_LINES = 50  # of the journal that are sent at a time, about as many metrics
_MAX_PARAM_LENGTH = 6000


def sync(folder: str, context: Context) -> int:
    """Sends what MLflow lacks of one run, or of every run below a folder; returns how many lines and files were sent.

    folder: a run's folder, or the folder of all runs.  UserError if there is no journal, tracking is off, or MLflow
    is unavailable.
    """
    store = open_store(folder)
    location = resolve(context.tracking, context.runs)
    if location is None:
        raise UserError(
            "tracking is off, so the journal cannot be sent",
            where=folder,
            fix="leave out --tracking.uri off",
        )
    journals = [name.removesuffix("/run.json") for name in store.list() if name.endswith("journal/run.json")]
    if not journals:
        raise UserError(
            "holds no journal",
            where=folder,
            fix="give a run's folder (<runs>/<dataset>/<method>/<key>) or the runs folder",
        )
    try:
        return sum(_send(Journal(store.child(name)), location) for name in journals)
    except (MlflowUnavailable, MlflowNotFound) as error:
        raise UserError(
            f"MLflow could not receive it: {error}",
            where=redact(location.uri),
            fix="start the server and run `ufgvc sync` again",
        ) from error


def _send(journal: Journal, location: MlflowLocation) -> int:
    identity = journal.read_identity()
    if identity is None:
        return 0
    lines, files = journal.read_lines(), journal.list_artifacts()
    if identity["described"] and identity["sent"] == len(lines) and not files:
        return 0
    client, recreated = open_run(location, identity)
    if recreated:
        identity["sent"] = 0
    journal.write_identity(identity)
    pending = lines[identity["sent"] :]
    send_lines(client, identity, pending, journal)
    for name in files:
        send_files(client, identity, {name: journal.read_artifact(name)})
        journal.delete_artifact(name)
    journal.write_identity(identity | {"described": True})
    return len(pending) + len(files)


def open_run(location: MlflowLocation, identity: dict[str, Any]) -> tuple[Any, bool]:
    """A client, and whether the run had to be created again because MLflow no longer knows its id.

    Creates or finds the run on MLflow, sets its parameters, tags and status as in `identity`, and writes MLflow's id
    and the start of the run into `identity`. A run that was created again needs all lines and files again.
    """
    client = connect(location)
    recreated = False
    with map_errors():
        run = _find(client, identity)
        if run is None:
            recreated = identity["id"] is not None
            run = _create(client, location, identity)
        identity["id"] = run.info.run_id
        identity["started_ms"] = run.info.start_time
        _describe(client, identity, run)
    return client, recreated


def send_lines(client: Any, identity: dict[str, Any], lines: Sequence[Line], journal: Journal) -> None:
    """Sends lines of the journal that MLflow does not have, and notes in run.json that it has them."""
    for start in range(0, len(lines), _LINES):
        some = lines[start : start + _LINES]
        send_metrics(client, identity, some)
        identity["sent"] += len(some)
        journal.write_identity(identity)


def send_metrics(client: Any, identity: Mapping[str, Any], lines: Sequence[Line]) -> None:
    """Sends the metrics of steps.

    Their time is the run's start plus `step` ms, so that sending them again adds no row.
    """
    from mlflow.entities import Metric

    begun = int(identity["started_ms"])
    rows = [
        Metric(name, float(value), begun + line.step, line.step)
        for line in lines
        for name, value in line.metrics.items()
    ]
    with map_errors():
        for start in range(0, len(rows), _MAX_METRICS):
            client.log_batch(identity["id"], metrics=rows[start : start + _MAX_METRICS])


def send_files(client: Any, identity: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Sends files as artifacts; names are relative paths with "/"."""
    with map_errors(), tempfile.TemporaryDirectory(prefix="ufgvc-artifact-") as folder:
        for name, data in files.items():
            path = Path(folder) / posixpath.basename(name)
            path.write_bytes(data)
            client.log_artifact(identity["id"], str(path), posixpath.dirname(name) or None)


def _find(client: Any, identity: Mapping[str, Any]) -> Any:
    """The run by its id, or by its key: a process may have died after creating the run and before writing its id."""
    try:
        if identity["id"] is not None:
            with map_errors():
                run = client.get_run(identity["id"])
            return run if run.info.lifecycle_stage == "active" else None
    except MlflowNotFound:
        return None
    experiment = client.get_experiment_by_name(identity["experiment"])
    if experiment is None:
        return None
    found = client.search_runs([experiment.experiment_id], f"tags.`{_KEY_TAG}` = '{identity['key']}'", max_results=1)
    return found[0] if found else None


def _create(client: Any, location: MlflowLocation, identity: Mapping[str, Any]) -> Any:
    tags = {_KEY_TAG: identity["key"]}
    if identity["parent"]:
        tags["mlflow.parentRunId"] = identity["parent"]
    experiment = _experiment(client, location, identity["experiment"])
    return client.create_run(experiment, start_time=identity["started_ms"], run_name=identity["name"], tags=tags)


def _experiment(client: Any, location: MlflowLocation, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=location.artifacts))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another job may have created it meanwhile
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _describe(client: Any, identity: Mapping[str, Any], run: Any) -> None:
    """Sets the parameters that MLflow does not have yet (it refuses changed ones), tags, config.yaml and status."""
    from mlflow.entities import Param, RunTag

    flat = {name[:250]: str(value)[:_MAX_PARAM_LENGTH] for name, value in flatten(identity["config"]).items()}
    known = run.data.params
    params = [Param(name, value) for name, value in flat.items() if name not in known]
    for start in range(0, len(params), _MAX_PARAMS):
        client.log_batch(run.info.run_id, params=params[start : start + _MAX_PARAMS])
    tags = [
        RunTag(key, str(value)[:5000])
        for key, value in identity["tags"].items()
        if run.data.tags.get(key) != str(value)
    ]
    for start in range(0, len(tags), _MAX_PARAMS):
        client.log_batch(run.info.run_id, tags=tags[start : start + _MAX_PARAMS])
    if params:
        send_files(client, {"id": run.info.run_id}, {"config.yaml": to_yaml(identity["config"]).encode()})
    status = identity["status"] or "RUNNING"
    if run.info.status != status:
        if status == "RUNNING":
            client.update_run(run.info.run_id, status=status)
        else:
            client.set_terminated(run.info.run_id, status)

"""Telling MLflow what a journal holds: used by a run while it works, and by `ufgvc sync` afterwards."""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ufgvc.core.config import flatten, to_yaml
from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store
from ufgvc.tracking.client import MlflowNotFound, MlflowUnavailable, connect, map_errors
from ufgvc.tracking.context import Context
from ufgvc.tracking.journal import Journal
from ufgvc.tracking.settings import MlflowLocation, redact, resolve

_KEY_TAG = "ufgvc.key"
_PARAMS_AT_ONCE = 100  # the limits of one log-batch request
_METRICS_AT_ONCE = 1000
_LONGEST_PARAM = 6000


def sync(folder: str, context: Context) -> int:
    """Sends what MLflow has missed of one run, or of every run below a folder; the number of steps and files sent.

    folder: a run's folder, or the folder of all runs.  UserError if there is no
    journal, tracking is off, or MLflow is still away.
    """
    store = open_store(folder)
    place = resolve(context.tracking, context.runs)
    if place is None:
        raise UserError(
            "tracking is off, so there is nowhere to send the journal to",
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
        return sum(_send(Journal(store.child(name)), place) for name in journals)
    except (MlflowUnavailable, MlflowNotFound) as error:
        raise UserError(
            f"MLflow could not be told: {error}",
            where=redact(place.uri),
            fix="start the server and run `ufgvc sync` again",
        ) from error


def _send(journal: Journal, place: MlflowLocation) -> int:
    identity = journal.identity()
    if identity is None or (identity["described"] and not journal.pending() and not journal.artifacts()):
        return 0
    client, moved = open_run(place, identity)
    if moved:
        journal.forget_sent()
    journal.keep_identity(identity)
    sent = 0
    for step in journal.pending():
        deliver(client, identity, step, journal.read(step))
        journal.mark_sent(step)
        sent += 1
    for name in journal.artifacts():
        deliver_artifacts(client, identity, {name: journal.artifact(name)})
        journal.drop_artifact(name)
        sent += 1
    journal.keep_identity(identity | {"described": True})
    return sent


def open_run(place: MlflowLocation, identity: dict[str, Any]) -> tuple[Any, bool]:
    """A client, and the run made or found, with its parameters, configuration, tags and status as `identity` has them.

    `identity` gets MLflow's id and start. The second value: MLflow did not know the id, so this is a new run that needs everything again.
    """
    client = connect(place)
    moved = False
    with map_errors():
        run = _find(client, identity)
        if run is None:
            moved = identity["id"] is not None
            run = _create(client, place, identity)
            identity["id"] = run.info.run_id
        identity["started_ms"] = run.info.start_time
        _describe(client, identity, run)
    return client, moved


def deliver(client: Any, identity: Mapping[str, Any], step: int, metrics: Mapping[str, float]) -> None:
    """Sends one step. Its time is the run's start plus the step (ms), so that sending it again adds no row."""
    from mlflow.entities import Metric

    at = int(identity["started_ms"]) + step
    rows = [Metric(name, float(value), at, step) for name, value in metrics.items()]
    with map_errors():
        for start in range(0, len(rows), _METRICS_AT_ONCE):
            client.log_batch(identity["id"], metrics=rows[start : start + _METRICS_AT_ONCE])


def deliver_artifacts(client: Any, identity: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
    """Sends files; names are relative paths with "/"."""
    with map_errors(), tempfile.TemporaryDirectory(prefix="ufgvc-artifact-") as folder:
        for name, data in files.items():
            path = Path(folder) / posixpath.basename(name)
            path.write_bytes(data)
            client.log_artifact(identity["id"], str(path), posixpath.dirname(name) or None)


def _find(client: Any, identity: Mapping[str, Any]) -> Any:
    """The run by its id, or by the key it was made with: a process may have died between making it and noting its id."""
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


def _create(client: Any, place: MlflowLocation, identity: Mapping[str, Any]) -> Any:
    tags = {_KEY_TAG: identity["key"]}
    if identity["parent"]:
        tags["mlflow.parentRunId"] = identity["parent"]
    experiment = _experiment(client, place, identity["experiment"])
    return client.create_run(experiment, start_time=identity["started_ms"], run_name=identity["name"], tags=tags)


def _experiment(client: Any, place: MlflowLocation, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=place.artifacts))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another job may have made it in between
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _describe(client: Any, identity: Mapping[str, Any], run: Any) -> None:
    """Parameters that MLflow does not have yet (it refuses changed ones), tags, configuration, status."""
    from mlflow.entities import Param, RunTag

    flat = {name[:250]: str(value)[:_LONGEST_PARAM] for name, value in flatten(identity["config"]).items()}
    known = run.data.params
    params = [Param(name, value) for name, value in flat.items() if name not in known]
    for start in range(0, len(params), _PARAMS_AT_ONCE):
        client.log_batch(run.info.run_id, params=params[start : start + _PARAMS_AT_ONCE])
    tags = [
        RunTag(key, str(value)[:5000])
        for key, value in identity["tags"].items()
        if run.data.tags.get(key) != str(value)
    ]
    for start in range(0, len(tags), _PARAMS_AT_ONCE):
        client.log_batch(run.info.run_id, tags=tags[start : start + _PARAMS_AT_ONCE])
    if params:
        deliver_artifacts(client, {"id": run.info.run_id}, {"config.yaml": to_yaml(identity["config"]).encode()})
    status = identity["status"] or "RUNNING"
    if run.info.status != status:
        if status == "RUNNING":
            client.update_run(run.info.run_id, status=status)
        else:
            client.set_terminated(run.info.run_id, status)

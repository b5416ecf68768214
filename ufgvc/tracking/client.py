"""The connection to MLflow: opened explicitly, without MLflow's global state, and with short timeouts."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ufgvc.core.errors import UserError, disk_error, first_line
from ufgvc.core.s3_client import ca_bundle
from ufgvc.tracking.context import Context
from ufgvc.tracking.settings import MlflowLocation, is_remote, redact, resolve


class MlflowUnavailable(Exception):
    """MLflow cannot be reached, or refused; trying again later may help.  fix: what to do, where that is known."""

    def __init__(self, what: str, fix: str | None = None) -> None:
        super().__init__(what)
        self.fix = fix


class MlflowNotFound(Exception):
    """MLflow answered that it does not have what was requested."""


def connect(location: MlflowLocation) -> Any:
    """An MlflowClient for tracking and registry. MlflowUnavailable if it cannot be reached."""
    set_environment(location)
    check_reachable(location)
    with map_errors():
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=location.uri, registry_uri=location.uri)


def require_mlflow(context: Context) -> None:
    """UserError if the named MLflow server cannot be reached. For long jobs, before they start."""
    location = resolve(context.tracking, context.runs)
    if location is None:
        return
    try:
        connect(location)
    except MlflowUnavailable as error:
        fix = (
            "start the server, check MLFLOW_TRACKING_URI or --tracking.uri, or record nothing with `--tracking.uri off`"
        )
        raise UserError(
            f"MLflow cannot be reached: {error}", where=redact(location.uri), fix=error.fix or fix
        ) from None


def set_environment(location: MlflowLocation) -> None:
    """Sets the variables of MLflow that the user has not set: short retries, no telemetry, no progress bars, S3."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # It logs a traceback and then raises, which `map_errors` explains.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    if location.artifacts and location.artifacts.startswith("s3://"):
        if endpoint := os.environ.get("AWS_ENDPOINT_URL"):
            os.environ.setdefault("MLFLOW_S3_ENDPOINT_URL", endpoint)
        if trusted := ca_bundle():  # MLflow's own client knows AWS_CA_BUNDLE only
            os.environ.setdefault("AWS_CA_BUNDLE", trusted)


def check_reachable(location: MlflowLocation) -> None:
    """MlflowUnavailable if nothing listens at the server's address, or if no database can be created there.

    MLflow itself would retry for minutes.
    """
    if not is_remote(location.uri):
        _check_database(location.uri)
        return
    parts = urlsplit(location.uri)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=location.timeout).close()
    except OSError as error:
        raise MlflowUnavailable(f"nothing listens at {redact(location.uri)} ({error})") from error


def has_database(location: MlflowLocation) -> bool:
    """False for an SQLite file that does not exist: connecting would make it."""
    return not location.uri.startswith("sqlite:///") or _database(location.uri).exists()


def _database(uri: str) -> Path:
    return Path(uri.removeprefix("sqlite:///").partition("?")[0])


def _check_database(uri: str) -> None:
    folder = _database(uri).parent
    missing = uri.startswith("sqlite:///") and not _database(uri).exists()
    if missing and folder.exists() and not os.access(folder, os.W_OK):
        fix = "change its rights, or name another with --tracking.uri"
        raise MlflowUnavailable(f"no database can be made in {folder}", fix)


@contextmanager
def map_errors() -> Iterator[None]:
    """Turns the errors of MLflow and its transports into MlflowUnavailable or MlflowNotFound."""
    import requests
    import sqlalchemy.exc
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        text = redact(first_line(error))
        _raise_for_disk(error)
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"):
            raise MlflowNotFound(text) from error
        raise MlflowUnavailable(text) from error
    except (requests.exceptions.RequestException, sqlalchemy.exc.DatabaseError, OSError) as error:
        _raise_for_disk(error)
        raise MlflowUnavailable(redact(first_line(error))) from error


def _raise_for_disk(error: BaseException) -> None:
    """MlflowUnavailable with the fix if the root cause is a full or read-only disk."""
    current: BaseException | None = error
    while current is not None:
        refused = disk_error(current, "its database or files")
        if refused is not None:
            place = f" ({refused.where})" if refused.where else ""
            raise MlflowUnavailable(f"{refused.what}{place}", refused.fix) from error
        current = current.__cause__ or current.__context__

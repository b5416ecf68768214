"""The connection to MLflow: opened explicitly, never through MLflow's global state, and quick to say that nobody is there."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ufgvc.core.errors import disk_error
from ufgvc.core.s3_client import ca_bundle
from ufgvc.tracking.settings import MlflowLocation, is_remote, redact

log = logging.getLogger(__name__)


class MlflowUnavailable(Exception):
    """MLflow cannot be reached or refused for now; trying again later may help.  fix: what to do, where that is known."""

    def __init__(self, what: str, fix: str | None = None) -> None:
        super().__init__(what)
        self.fix = fix


class MlflowNotFound(Exception):
    """MLflow answers, and does not know what was asked for."""


def prepare(place: MlflowLocation) -> None:
    """MLflow's own patience is minutes a request; ours is seconds, unless the user has set it. No usage reports, no progress bars."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    logging.getLogger("mlflow.store.db.utils").setLevel(
        logging.CRITICAL
    )  # its traceback; what it raises is explained here
    if place.artifacts and place.artifacts.startswith("s3://"):
        if endpoint := os.environ.get("AWS_ENDPOINT_URL"):
            os.environ.setdefault("MLFLOW_S3_ENDPOINT_URL", endpoint)
        if trusted := ca_bundle():  # MLflow's own client knows AWS_CA_BUNDLE only
            os.environ.setdefault("AWS_CA_BUNDLE", trusted)


def check_reachable(place: MlflowLocation) -> None:
    """Away if a server is named and nobody listens there, or no database can be made: MLflow itself would try for a long time."""
    database = Path(place.uri.removeprefix("sqlite:///").partition("?")[0])
    folder = database.parent
    if (
        place.uri.startswith("sqlite:///")
        and not database.exists()
        and folder.exists()
        and not os.access(folder, os.W_OK)
    ):
        raise MlflowUnavailable(
            f"no database can be made in {folder}", "change its rights, or name another with --tracking.uri"
        )
    if not is_remote(place.uri):
        return
    parts = urlsplit(place.uri)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=place.patience).close()
    except OSError as error:
        raise MlflowUnavailable(f"nobody listens at {redact(place.uri)} ({error})") from error


def connect(place: MlflowLocation) -> Any:
    """An MlflowClient for tracking and registry alike. Away if it cannot be reached."""
    prepare(place)
    check_reachable(place)
    with map_errors():
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=place.uri, registry_uri=place.uri)


def _raise_for_disk(error: BaseException) -> None:
    """Away with the remedy if a full or read-only disk, MLflow's own database there included, is what began it."""
    current: BaseException | None = error
    while current is not None:
        refused = disk_error(current, "its database or files")
        if refused is not None:
            raise MlflowUnavailable(f"{refused.what} ({refused.where})", refused.fix) from error
        current = current.__cause__ or current.__context__


@contextmanager
def map_errors() -> Iterator[None]:
    """Turns what MLflow and its transports raise into Away or Gone."""
    import requests
    import sqlalchemy.exc
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        text = redact(str(error)).splitlines()[0]
        _raise_for_disk(error)
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"):
            raise MlflowNotFound(text) from error
        raise MlflowUnavailable(text) from error
    except (requests.exceptions.RequestException, sqlalchemy.exc.OperationalError, OSError) as error:
        _raise_for_disk(error)
        raise MlflowUnavailable(redact(str(error)).splitlines()[0]) from error

"""Settings of MLflow: where it is, and removing secrets from what it records."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from ufgvc.core.config import Settings
from ufgvc.core.errors import UserError
from ufgvc.core.places import Place
from ufgvc.core.process import git_commit, versions
from ufgvc.core.storage import join, open_store

OFF = "off"
_USER_IN_URI = re.compile(r"(?P<scheme>[a-zA-Z][\w+.-]*://)[^/\s@?#]+@")
_SECRET_IN_QUERY = re.compile(
    r"(?i)(?P<key>[?&][\w.-]*(?:password|passwd|secret|token|signature|credential|key)[\w.-]*=)[^&\s#]+"
)
_SECRET_NAME = re.compile(r"(?i)(password|passwd|secret|token|access_key|api_key|credential)")


class TrackingSettings(Settings):
    """Where runs are recorded."""

    uri: str | None = None
    """MLflow server or database; default: MLFLOW_TRACKING_URI, else SQLite in the runs folder; `off`: none"""
    experiment: str | None = None
    """MLflow experiment; default: the name of the data set"""
    artifacts: Place | None = None
    """where artifacts go when MLflow is a database; default: `mlartifacts` in the runs folder (a server has its own)"""
    timeout: float = Field(5.0, gt=0)
    """seconds to wait for a server that does not answer"""


@dataclass(frozen=True)
class MlflowLocation:
    """The MLflow to use.

    artifacts: where a new experiment puts its files; None: the server decides.  timeout: seconds, for connecting.
    """

    uri: str
    artifacts: str | None
    timeout: float = 5.0


def resolve(settings: TrackingSettings, runs: str | None) -> MlflowLocation | None:
    """The MLflow that the settings, the environment or the runs folder name; None if tracking is off.

    runs: the folder of all runs, in which the SQLite database is by default; None: only a named server or database
    will do. UserError if runs are on object storage and no MLflow is named.
    """
    uri = settings.uri or os.environ.get("MLFLOW_TRACKING_URI") or None
    if uri == OFF:
        return None
    store = open_store(runs) if runs else None
    if uri is None:
        if store is None or not store.is_local:
            raise UserError(
                "MLflow keeps its database in a local folder or on a server, not on object storage",
                where=f"--runs {redact(runs)}" if runs else "tracking",
                fix="set MLFLOW_TRACKING_URI to your MLflow server, or --tracking.uri off",
            )
        uri = f"sqlite:///{store.local_path / 'mlflow.db'}"
        # SQLAlchemy reads %41 as a letter and what stands behind a ? as options, while MLflow makes the folder as it
        # is written.
        if re.search(r"[%?]", uri):
            fix = "choose a folder without % and ?, or name a server or database with --tracking.uri"
            raise UserError(
                "MLflow cannot keep its database below a folder of this name", where=f"--runs {runs}", fix=fix
            )
    artifacts = settings.artifacts
    if artifacts is None and store is not None and not is_remote(uri):
        artifacts = join(store.uri, "mlartifacts")
    if artifacts is not None and open_store(artifacts).is_local:
        artifacts = open_store(artifacts).local_path.as_uri()
    return MlflowLocation(uri, artifacts, settings.timeout)


def is_remote(uri: str) -> bool:
    """True for a server over HTTP, False for a database that this process opens."""
    return uri.startswith(("http://", "https://"))


def redact(text: str) -> str:
    """The text with users, passwords and tokens in its URIs replaced by ***."""
    return _SECRET_IN_QUERY.sub(r"\g<key>***", _USER_IN_URI.sub(r"\g<scheme>***@", text))


def redact_values(value: Any, name: str = "") -> Any:
    """`redact` for nested settings; a value whose name is that of a secret (password, token, ...) becomes ***."""
    if isinstance(value, Mapping):
        return {key: redact_values(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redact_values(inner, name) for inner in value]
    if isinstance(value, str) and value:
        return "***" if _SECRET_NAME.search(name) else redact(value)
    return value


def version_tags() -> dict[str, str]:
    """Tags of a run: the git commit and the package versions."""
    found = {f"version.{package}": version for package, version in versions().items()}
    commit = git_commit()
    return found | ({"git.commit": commit} if commit else {})

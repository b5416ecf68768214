"""MLflow's model registry: registering models, and finding and downloading them by their address."""

from __future__ import annotations

import contextlib
import posixpath
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ufgvc.core.errors import UserError
from ufgvc.core.storage import Store, open_store
from ufgvc.tracking.client import MlflowNotFound, MlflowUnavailable, connect, map_errors
from ufgvc.tracking.context import Context
from ufgvc.tracking.runs import start_run
from ufgvc.tracking.settings import MlflowLocation, redact, resolve

CHALLENGER, CHAMPION = "challenger", "champion"
_ALIAS = re.compile(r"models:/+(?P<name>[^@/]+)@(?P<alias>[^@/]+)$")
_VERSION = re.compile(r"models:/+(?P<name>[^@/]+)/(?P<version>\d+)$")
_RUN = re.compile(r"runs:/+(?P<run>[0-9a-zA-Z]+)/(?P<path>.+)$")


def model_name(dataset: str, regions: bool = False) -> str:
    """The registered model of a data set: its classifier, or the detector of its regions."""
    return f"ufgvc-{re.sub(r'[/:]', '-', dataset)}{'-regions' if regions else ''}"


def register(
    model_uri: str,
    name: str,
    tags: Mapping[str, Any],
    context: Context = Context(),
    alias: str | None = CHALLENGER,
) -> str | None:
    """Registers a model as a version of `name` and returns the version; None if tracking is off.

    Registering the same model twice makes one version.

    model_uri: <run>/model (or any folder with a model.json), runs:/<id>/model, or models:/...  UserError if MLflow is
    unavailable.
    """
    if not model_uri.startswith(("runs:", "models:")):
        store = open_store(model_uri)
        if not store.exists("model.json"):
            raise UserError(
                "holds no model", where=model_uri, fix="give <run>/model, runs:/<id>/model or models:/<name>@<alias>"
            )
        info = store.read_json("model.json")
        return register_folder(model_uri, name, tags, context, alias, info.get("run_id"), info.get("artifact", "model"))
    with registry_client(context) as (client, _):
        source, run_id = resolve_source(client, model_uri)
        return _register(client, name, source, run_id, tags, alias)


def register_folder(
    folder: str,
    name: str,
    tags: Mapping[str, Any],
    context: Context = Context(),
    alias: str | None = CHALLENGER,
    run_id: str | None = None,
    artifact: str = "model",
) -> str | None:
    """Registers any folder (local or s3://) as a version of `name`.

    Its files are sent to the run unless the run has them as `artifact`.

    run_id: the run that made it; None: a run is created for it.  Returns the version, or None if tracking is off.
    """
    location = resolve(context.tracking, context.runs)
    if location is None:
        return None
    with registry_client(context) as (client, _):
        if run_id is None or not has_run(client, run_id):
            run = start_run(context, name, f"register {name}", {"folder": folder}, {"kind": "register"})
            if run.id is None:
                raise MlflowUnavailable("the run for the model could not be created")
            run.finish()
            run_id = run.id
        if not client.list_artifacts(run_id, artifact):
            with _local_copy(open_store(folder)) as local:
                client.log_artifacts(run_id, str(local), artifact)
        if not client.list_artifacts(run_id, artifact):
            raise UserError(
                "MLflow received the model's files and does not have them",
                where=redact(location.uri),
                fix="check its artifact store",
            )
        source = f"{client.get_run(run_id).info.artifact_uri}/{artifact}"
        return _register(client, name, source, run_id, tags, alias)


@contextlib.contextmanager
def download_model(uri: str, context: Context) -> Iterator[Path]:
    """A local copy of the model's own files, at models:/... or runs:/..., within the block.

    Not of its folder code/, which only MLflow's server reads: 200 files, and as many requests to a bucket.
    UserError, listing the models, if there is none.
    """
    with tempfile.TemporaryDirectory(prefix="ufgvc-model-") as folder:
        with registry_client(context) as (client, location):
            from mlflow.artifacts import download_artifacts, list_artifacts

            source = resolve_source(client, uri)[0].rstrip("/")
            found = False
            with contextlib.suppress(FileNotFoundError):
                for each in list_artifacts(artifact_uri=source, tracking_uri=location.uri):
                    if not each.is_dir:
                        file = f"{source}/{posixpath.basename(each.path)}"
                        download_artifacts(
                            artifact_uri=file, dst_path=folder, tracking_uri=location.uri, registry_uri=location.uri
                        )
                        found = True
        if not found:
            raise UserError(
                "MLflow has the model, but its files are missing", where=uri, fix="train or register the model again"
            )
        yield Path(folder)


def list_versions(name: str, context: Context = Context()) -> list[Any]:
    """All versions of a registered model, newest first; [] if there is none of that name."""
    with registry_client(context) as (client, _):
        return sorted(client.search_model_versions(f"name = '{name}'"), key=lambda version: -int(version.version))


def _register(
    client: Any, name: str, source: str, run_id: str | None, tags: Mapping[str, Any], alias: str | None
) -> str:
    with contextlib.suppress(MlflowNotFound):
        with map_errors():
            client.get_registered_model(name)
        known = client.search_model_versions(f"name = '{name}'")
        same = [version for version in known if version.run_id == (run_id or "") and version.source == source]
        if same:
            return _set_tags(client, name, str(same[0].version), tags, alias)
        return _set_tags(
            client, name, str(client.create_model_version(name, source, run_id=run_id).version), tags, alias
        )
    client.create_registered_model(name)
    return _set_tags(client, name, str(client.create_model_version(name, source, run_id=run_id).version), tags, alias)


def _set_tags(client: Any, name: str, version: str, tags: Mapping[str, Any], alias: str | None) -> str:
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, redact(str(value)))
    if alias:
        client.set_registered_model_alias(name, alias, version)
    return version


def resolve_source(client: Any, uri: str) -> tuple[str, str | None]:
    """The URI of the files of models:/... or runs:/..., and the id of the run that made them."""
    if match := _RUN.match(uri):
        with _explain_missing(client, uri):
            return f"{client.get_run(match['run']).info.artifact_uri}/{match['path']}", match["run"]
    version = get_version(client, uri)
    return client.get_model_version_download_uri(version.name, version.version), version.run_id


def get_version(client: Any, uri: str) -> Any:
    """MLflow's ModelVersion of models:/... UserError, listing the models, if there is none."""
    with _explain_missing(client, uri):
        if match := _ALIAS.match(uri):
            return client.get_model_version_by_alias(match["name"], match["alias"])
        if match := _VERSION.match(uri):
            return client.get_model_version(match["name"], match["version"])
    fix = "write models:/<name>@<alias>, models:/<name>/<version> or runs:/<id>/model"
    raise UserError("is not a model's address", where=uri, fix=fix)


@contextlib.contextmanager
def _explain_missing(client: Any, uri: str) -> Iterator[None]:
    try:
        with map_errors():
            yield
    except (MlflowNotFound, MlflowUnavailable) as error:
        if isinstance(error, MlflowUnavailable) and "not found" not in str(error):
            raise
        raise UserError("MLflow knows no such model", where=uri, fix=_list_models(client, uri)) from None


def _list_models(client: Any, uri: str) -> str:
    if uri.startswith("runs:"):
        return "check the run's id in MLflow, or give <runs>/<dataset>/<method>/<key>/model"
    found = []
    for model in client.search_registered_models(max_results=20):
        aliases = [f"models:/{model.name}@{alias}" for alias in sorted(model.aliases)]
        newest = max((int(version.version) for version in model.latest_versions), default=None)
        found += aliases or ([f"models:/{model.name}/{newest}"] if newest else [])
    return f"known: {', '.join(found)}" if found else "no model is registered there yet: `ufgvc evaluate` registers one"


def has_run(client: Any, run_id: str) -> bool:
    """Whether MLflow has the run, and it is not deleted."""
    try:
        with map_errors():
            return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowNotFound:
        return False


@contextlib.contextmanager
def registry_client(context: Context) -> Iterator[tuple[Any, MlflowLocation]]:
    """A client for work that needs MLflow now. UserError if tracking is off or MLflow is unavailable."""
    location = resolve(context.tracking, context.runs)
    if location is None:
        raise UserError(
            "tracking is off, so there is no registry",
            where="--tracking.uri",
            fix="name a server, or give the model's folder",
        )
    try:
        client = connect(location)
        with map_errors():
            yield client, location
    except (MlflowUnavailable, MlflowNotFound) as error:
        fix = getattr(error, "fix", None) or "check that the server runs, and --tracking.uri"
        raise UserError(f"MLflow failed: {error}", where=redact(location.uri), fix=fix) from error


@contextlib.contextmanager
def _local_copy(store: Store) -> Iterator[Path]:
    if store.is_local:
        yield store.local_path
        return
    with tempfile.TemporaryDirectory(prefix="ufgvc-model-") as folder:
        store.download(Path(folder))
        yield Path(folder)

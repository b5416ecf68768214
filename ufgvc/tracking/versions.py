"""Versions of a registered model: the champion, tags and model cards."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store
from ufgvc.tracking.client import MlflowNotFound, has_database, map_errors
from ufgvc.tracking.context import Context
from ufgvc.tracking.registry import CHALLENGER, CHAMPION, get_version, has_run, registry_client, resolve_source
from ufgvc.tracking.settings import redact, resolve

PREVIOUS = "previous"
CARD = "model-card.md"
MAX_DESCRIPTION = 5000  # characters that MLflow's databases take


@dataclass(frozen=True)
class Version:
    """One version of a registered model.  number: "3".  run_id: the run that made it, where its files are."""

    name: str
    number: str
    run_id: str | None
    description: str = ""
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """The version as MLflow names it: models:/<name>/<number>."""
        return f"models:/{self.name}/{self.number}"


@dataclass(frozen=True)
class Registered:
    """All versions of a registered model, newest first, and the numbers that carry the two aliases, None for none."""

    versions: tuple[Version, ...] = ()
    champion: str | None = None
    challenger: str | None = None

    def version(self, number: str | None) -> Version | None:
        """The version of that number; None if there is none."""
        return next((version for version in self.versions if version.number == number), None)


def list_registered(name: str, context: Context = Context()) -> Registered:
    """What the registry has of a model; nothing if there is no model of that name, or no database yet.

    Nothing is written. UserError as for `registry_client`.
    """
    location = resolve(context.tracking, context.runs)
    if location is not None and not has_database(location):
        return Registered()
    with registry_client(context) as (client, _):
        try:
            with map_errors():
                aliases = {alias: str(number) for alias, number in client.get_registered_model(name).aliases.items()}
        except MlflowNotFound:
            return Registered()
        found = [_version(each) for each in client.search_model_versions(f"name = '{name}'")]
        newest_first = sorted(found, key=lambda version: -int(version.number))
        return Registered(tuple(newest_first), aliases.get(CHAMPION), aliases.get(CHALLENGER))


def find_version(uri: str, name: str, context: Context = Context()) -> Version:
    """The version of `name` at models:/..., runs:/<id>/model or a run's model folder.

    UserError if it is not registered.
    """
    with registry_client(context) as (client, _):
        if uri.startswith("models:"):
            version = get_version(client, uri)
            if version.name != name:
                raise UserError(
                    f"is not a version of {name}", where=uri, fix=f"give models:/{name}/<version> or another --data"
                )
            return _version(version)
        run_id = resolve_source(client, uri)[1] if uri.startswith("runs:") else _run_id_of(uri)
        of_run = [
            version
            for version in client.search_model_versions(f"name = '{name}'")
            if run_id and version.run_id == run_id
        ]
        if not of_run:
            fix = (
                f"run `ufgvc evaluate --data <data> --model {uri}` first, or name the version: models:/{name}/<version>"
            )
            raise UserError(f"is not registered as a version of {name}", where=uri, fix=fix)
        return _version(max(of_run, key=lambda version: int(version.version)))


def get_champion(name: str, context: Context = Context()) -> Version | None:
    """The version with the alias `champion`; None if there is none."""
    with registry_client(context) as (client, _):
        return _get_champion(client, name)


def set_champion(new: Version, old: Version | None, context: Context = Context()) -> None:
    """Sets the alias `champion` to `new`, and `previous` to `old` if given.

    UserError if the champion is no longer `old`.
    """
    with registry_client(context) as (client, _):
        now = _get_champion(client, new.name)
        if (now and now.number) != (old and old.number):
            changed = f"version {now.number} became champion" if now else "the alias was deleted"
            raise UserError(
                f"{changed} meanwhile",
                where=f"models:/{new.name}@{CHAMPION}",
                fix="run `ufgvc promote` again",
            )
        if old is not None:
            client.set_registered_model_alias(new.name, PREVIOUS, old.number)
        client.set_registered_model_alias(new.name, CHAMPION, new.number)


def read_card(version: Version, context: Context = Context()) -> str:
    """The model card of a version; its description, which may be truncated, where its run has no card."""
    with registry_client(context) as (client, _), tempfile.TemporaryDirectory(prefix="ufgvc-card-") as folder:
        if (
            version.run_id
            and has_run(client, version.run_id)
            and any(file.path == CARD for file in client.list_artifacts(version.run_id))
        ):
            return Path(client.download_artifacts(version.run_id, CARD, folder)).read_text(encoding="utf-8")
    return version.description


def write_version(version: Version, tags: Mapping[str, Any], card: str | None, context: Context = Context()) -> None:
    """Sets tags of a version, and its card: as its description, and as the artifact `model-card.md` of its run."""
    with registry_client(context) as (client, _):
        for key, value in tags.items():
            client.set_model_version_tag(version.name, version.number, key, redact(str(value)))
        if card is not None:
            card = redact(card)
            client.update_model_version(version.name, version.number, truncate_card(card))
            if version.run_id and has_run(client, version.run_id):
                client.log_text(version.run_id, card, CARD)


def truncate_card(card: str) -> str:
    """The card, cut at a line end to MAX_DESCRIPTION characters with a note where the rest is."""
    if len(card) <= MAX_DESCRIPTION:
        return card
    end = f"\n\n(The rest: {CARD} among the artifacts of the version's run.)\n"
    return card[: card.rindex("\n", 0, MAX_DESCRIPTION - len(end))] + end


def _get_champion(client: Any, name: str) -> Version | None:
    try:
        with map_errors():
            aliases = client.get_registered_model(name).aliases
            return _version(client.get_model_version(name, str(aliases[CHAMPION]))) if CHAMPION in aliases else None
    except MlflowNotFound:
        return None


def _version(found: Any) -> Version:
    return Version(found.name, str(found.version), found.run_id or None, found.description or "", dict(found.tags))


def _run_id_of(folder: str) -> str | None:
    store = open_store(folder)
    if not store.exists("model.json"):
        raise UserError(
            "holds no model", where=folder, fix="give models:/<name>@<alias>, runs:/<id>/model or <run>/model"
        )
    return store.read_json("model.json").get("run_id")

"""Where the served model comes from, and which version of it an alias names now."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ufgvc.core.errors import UserError
from ufgvc.models.model import LoadedModel, load_model
from ufgvc.tracking.context import Context

_REGISTERED = re.compile(r"models:/+(?P<name>[^@/]+)(?P<alias>@[^@/]+)?(?P<version>/\d+)?$")


@dataclass(frozen=True)
class ModelSource:
    """A model by its address.

    uri: models:/name@alias, models:/name/3, runs:/<id>/model, or a folder.  context: names the MLflow that knows it.
    """

    uri: str
    context: Context = Context()

    @property
    def moves(self) -> bool:
        """Whether the address may name another version later: only an alias does."""
        match = _REGISTERED.match(self.uri)
        return match is not None and match["alias"] is not None

    def version(self) -> str:
        """The version in the registry that the address names now; "" for a model that is not registered.

        UserError if there is no such model, or MLflow does not answer.
        """
        if not self.uri.startswith("models:"):
            return ""
        from ufgvc.tracking.registry import get_version, registry_client

        with registry_client(self.context) as (client, _):
            return str(get_version(client, self.uri).version)

    def load(self, version: str) -> LoadedModel:
        """The model in that version. UserError if it is not there, or damaged."""
        match = _REGISTERED.match(self.uri)
        if match is None or not version:
            return load_model(self.uri, self.context)
        return load_model(f"models:/{match['name']}/{version}", self.context)


def redacted_name(uri: str) -> str:
    """The address without users and passwords, for answers."""
    from ufgvc.tracking.settings import redact

    return redact(uri)


def check_source(source: ModelSource) -> LoadedModel:
    """Loads the model once, so that a missing or damaged one ends the command with one message."""
    if source.uri.startswith("models:") and _REGISTERED.match(source.uri) is None:
        fix = "write models:/<name>@<alias>, models:/<name>/<version> or runs:/<id>/model"
        raise UserError("is not a model's address", where=source.uri, fix=fix)
    return source.load(source.version())

"""Where the served model comes from, and which version of it an alias names now."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ufgvc.models.model import LoadedModel, load_model
from ufgvc.tracking.context import Context
from ufgvc.tracking.settings import redact

_REGISTERED = re.compile(r"models:/+(?P<name>[^@/]+)(?P<alias>@[^@/]+)?(?P<version>/\d+)?$")


@dataclass(frozen=True)
class ModelSource:
    """A model by its address.

    uri: models:/name@alias, models:/name/3, runs:/<id>/model, or a folder.  context: names the MLflow that knows it.
    """

    uri: str
    context: Context = Context()

    @property
    def name(self) -> str:
        """The address without users and passwords, for answers."""
        return redact(self.uri)

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

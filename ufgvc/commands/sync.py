"""`ufgvc sync`: sends MLflow what it missed."""

from __future__ import annotations

from typing import Any

from ufgvc.commands.fields import HasRuns
from ufgvc.core.errors import UserError
from ufgvc.core.places import Place
from ufgvc.core.storage import open_store
from ufgvc.tracking.context import Context

IDENTITY_FILE = "journal/run.json"  # every recorded run has one in its folder


class Sync(HasRuns):
    """Settings of `ufgvc sync`."""

    run: Place | None = None
    """one run's folder; default: every run below --runs"""


def run(settings: Sync, context: Context) -> dict[str, Any]:
    """Sends MLflow what it lacks and prints how much."""
    from ufgvc.tracking.sync import sync

    store = open_store(settings.run or context.runs)
    found = (name for name in store.list() if name.endswith(IDENTITY_FILE))
    folders = sorted({name.removesuffix(IDENTITY_FILE).rstrip("/") for name in found})
    if not folders:
        raise UserError("there is no run with a journal", where=store.uri, fix="give the folder that --runs named")
    sent = {}
    for folder in folders:
        number = sync((store.child(folder) if folder else store).uri, context)
        print(f"{folder or store.uri}: {f'sent {number}' if number else 'nothing was missing'}")
        sent[folder or store.uri] = number
    return {"sent": sent}

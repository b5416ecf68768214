"""MLflow: promote, sync."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ufgvc.commands.command import command
from ufgvc.commands.fields import DATA, RUNS, context_of, made, services
from ufgvc.core.config import Settings, select_fields

NOT_PROMOTED = 3  # exit code of `promote --strict`


def _promote(method: str) -> type[Settings]:
    from ufgvc.evaluation.settings import PromoteSettings

    model = (str | None, Field(None, description="the challenger: models:/name@alias, runs:/<id>/model or a run's model folder; "
                                                 "default: models:/ufgvc-<dataset>@challenger"))  # fmt: skip
    return made("Promote", (PromoteSettings,), data=(str, DATA), model=model, runs=(str, RUNS), **services())


@command("promote", "make the challenger champion if it is really better on the same test leaves", _promote)
def promote(told: Any) -> int | None:
    from ufgvc.evaluation.promote import promote as run
    from ufgvc.evaluation.settings import PromoteSettings
    from ufgvc.reports.promotion_tables import promotion_tables
    from ufgvc.reports.tables import show_tables

    result = run(told.data, told.model, select_fields(PromoteSettings, told), context_of(told))
    decided = result.promotion
    show_tables(promotion_tables(decided))
    for warning in decided.warnings:
        print(f"warning: {warning}")
    print(decided.sentence())
    print(result.file)
    return NOT_PROMOTED if told.strict and decided.decision != "promoted" else None


def _sync(method: str) -> type[Settings]:
    from ufgvc.tracking.settings import TrackingSettings

    run = (str | None, Field(None, description="one run's folder; default: every run below --runs"))
    return made("Sync", (Settings,), run=run, runs=(str, RUNS), tracking=(TrackingSettings, TrackingSettings()))


@command("sync", "send MLflow what it missed while its server was away", _sync)
def sync(told: Any) -> None:
    from ufgvc.core.errors import UserError
    from ufgvc.core.storage import open_store
    from ufgvc.tracking.sync import sync as run

    store = open_store(told.run or told.runs)
    folders = sorted(
        {
            name.removesuffix("journal/run.json").rstrip("/")
            for name in store.list()
            if name.endswith("journal/run.json")
        }
    )
    if not folders:
        raise UserError("there is no run with a journal", where=store.uri, fix="give the folder that --runs named")
    for folder in folders:
        sent = run((store.child(folder) if folder else store).uri, context_of(told))
        print(f"{folder or store.uri}: {f'sent {sent}' if sent else 'nothing was missing'}")

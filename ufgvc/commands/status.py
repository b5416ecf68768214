"""`ufgvc status`: what there is of a data set, what of it is stale, and the next command."""

from __future__ import annotations

from typing import Any

from ufgvc.commands.fields import HasData, HasRuns
from ufgvc.tracking.context import Context


class Status(HasRuns, HasData):
    """Settings of `ufgvc status`."""


def run(settings: Status, context: Context) -> dict[str, Any]:
    """Reads storage and registry and prints what they hold."""
    from ufgvc.experiments.next_command import next_command
    from ufgvc.experiments.status import read_status
    from ufgvc.experiments.status_text import closing_lines, runs_table, status_lines
    from ufgvc.reports.tables import show_tables

    status = read_status(settings.data, context)
    print("\n".join(status_lines(status)))
    table = runs_table(status)
    if table is not None:
        show_tables([table])
        print(f"{table.note}\n" if table.note else "", end="")
    following = next_command(status, context)
    print("\n".join(closing_lines(status, following)))
    return {**vars(status), "next": following}

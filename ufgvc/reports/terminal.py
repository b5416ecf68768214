"""Tables on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table as RichTable

from ufgvc.reports.tables import Table

PIPED = 160  # columns where nobody says how many there are


def show_tables(tables: Iterable[Table], without: Sequence[str] = ()) -> None:
    """Prints the cells that the page shows.  without: beginnings of the names of columns that are left to the page."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPED)
    for table in tables:
        kept = [place for place, name in enumerate(table.columns) if not name.startswith(tuple(without))]
        shown = RichTable(title=table.title, title_justify="left")
        for place in kept:
            shown.add_column(table.columns[place], justify="left" if place in table.text_columns else "right")
        for row in table.rows:
            shown.add_row(*(row[place] or "" for place in kept))
        console.print(shown)

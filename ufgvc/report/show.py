"""Tables on a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table as RichTable

from ufgvc.report.tables import Table

WIDEST = 200  # columns of a terminal that no person has: what is piped into a file is not cut


def show_tables(tables: Iterable[Table]) -> None:
    """Prints the cells that the page shows."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDEST)
    for table in tables:
        shown = RichTable(title=table.title, title_justify="left", caption=table.note or None, caption_justify="left")
        for place, name in enumerate(table.columns):
            shown.add_column(name, justify="left" if place in table.text_columns else "right")
        for row in table.rows:
            shown.add_row(*(cell or "" for cell in row))
        console.print(shown)

"""Tables and number formats of the reports: the HTML page, Markdown files and the terminal show the same cells."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

Cells = list[str | None]
PIPED_WIDTH = 100  # characters where the output is no terminal
FRAME = 3  # characters of a column besides its cells: a line and two blanks


@dataclass(frozen=True)
class Table:
    """A table of text.  rows: cells, None for an empty one.  text_columns: indices of left-aligned columns."""

    title: str
    columns: tuple[str, ...]
    rows: list[Cells]
    text_columns: frozenset[int] = field(default=frozenset({0}))
    note: str = ""

    def to_markdown(self) -> str:
        """A Markdown table without title and note; `|` in cells is escaped."""
        marks = ["---" if i in self.text_columns else "---:" for i in range(len(self.columns))]
        lines = [self.columns, marks, *([(cell or "").replace("|", "\\|") for cell in row] for row in self.rows)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def show_tables(tables: Iterable[Table], without: Sequence[str] = ()) -> None:
    """Prints tables on the terminal. One that is too wide is printed in parts, each with the first column.

    without: columns whose names start with one of these are left out.
    """
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPED_WIDTH)
    for table in tables:
        columns = [i for i, name in enumerate(table.columns) if not name.startswith(tuple(without))]
        parts = split_columns(table, columns, console.width)
        for number, part in enumerate(parts, start=1):
            title = table.title if number == 1 else f"{table.title} ({number} of {len(parts)})"
            shown = RichTable(title=title, title_justify="left")
            for i, width in zip(part, fitted_widths(table, part, console.width), strict=True):
                justify: Literal["left", "right"] = "left" if i in table.text_columns else "right"
                shown.add_column(table.columns[i], justify=justify, width=width)
            for row in table.rows:
                shown.add_row(*(row[i] or "" for i in part))
            console.print(shown)


def split_columns(table: Table, columns: Sequence[int], width: int) -> list[list[int]]:
    """The columns of each part of a table that fits `width` characters, in their order; the first one is in all parts.

    A column gets the width of its widest cell and of the longest word of its name; a column `p` stays with the one
    before. Where the first column and one other do not fit, their cells are wrapped.
    """
    first, *others = columns
    units: list[list[int]] = []
    for i in others:
        if table.columns[i] == "p" and units:
            units[-1].append(i)
        else:
            units.append([i])
    parts = [[first]]
    for unit in units:
        if len(parts[-1]) > 1 and _total_width(table, [*parts[-1], *unit]) > width:
            parts.append([first])
        parts[-1] += unit
    return parts


def fitted_widths(table: Table, columns: Sequence[int], width: int) -> list[int | None]:
    """Characters of each column, in which no cell is wrapped, and as few names as possible.

    None for all of them if the columns do not fit `width` characters.
    """
    spare = width - _total_width(table, columns)
    if spare < 0:
        return [None] * len(columns)
    widths: list[int | None] = []
    for i in columns:
        least = _width(table, i) - FRAME
        more = min(spare, max(0, len(table.columns[i]) - least))
        spare -= more
        widths.append(least + more)
    return widths


def _total_width(table: Table, columns: Sequence[int]) -> int:
    return sum(_width(table, i) for i in columns) + 1  # the frame's right side


def _width(table: Table, column: int) -> int:
    """Characters that a column takes, with its frame and the blanks about its cells."""
    from rich.cells import cell_len

    texts = [*table.columns[column].split(" "), *(row[column] or "" for row in table.rows)]
    return FRAME + max(cell_len(line) for text in texts for line in text.split("\n"))


class Interval(Protocol):
    """A share with its 95 % interval, such as Proportion, Estimate and Difference."""

    @property
    def value(self) -> float:
        """The estimate."""

    @property
    def low(self) -> float:
        """Lower end."""

    @property
    def high(self) -> float:
        """Upper end."""


def percent(value: float | None, digits: int = 1) -> str | None:
    """0.6208 -> "62.1 %"; None for None and NaN."""
    return None if value is None or math.isnan(value) else f"{100 * value:.{digits}f}\u00a0%"


def interval(one: Interval) -> str:
    """The interval of a share in [0, 1]: "57.2 to 66.0 %"."""
    return f"{100 * one.low:.1f} to {100 * one.high:.1f}\u00a0%"


def points(value: float) -> str:
    """A difference of shares in percentage points: 0.0321 -> "+3.2", with a true minus sign."""
    # Adding 0.0 makes -0.0 positive.
    return f"{round(100 * value, 1) + 0.0:+.1f}".replace("-", "\u2212")


def points_with_interval(gap: Interval) -> str:
    """ "+3.2 (-1.0 to +7.4)", in percentage points."""
    return f"{points(gap.value)} ({points(gap.low)} to {points(gap.high)})"


def p_text(p: float) -> str:
    """0.02134 -> "0.021"."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def count_of(right: float, leaves: int) -> str:
    """ "45 of 60", and "44.7 of 60" for a mean over seeds."""
    return f"{right:.0f} of {leaves}" if float(right).is_integer() else f"{right:.1f} of {leaves}"


def spread_text(spread: float | None, seeds: int) -> str:
    """Standard deviation over the seeds in percentage points, and their number: "1.5 (3)"; "(1)" with one seed."""
    return f"({seeds})" if spread is None else f"{100 * spread:.1f} ({seeds})"


def number(value: float | None) -> str | None:
    """A number with two or more significant digits: "1,234", "33.0", "0.25"."""
    if value is None:
        return None
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"

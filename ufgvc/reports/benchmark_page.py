"""A benchmark on one page: the gain in words, every method's difference with its interval, the tables, and where the models look."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace

import matplotlib as mpl
from matplotlib.figure import Figure

from ufgvc.evaluation.comparison import Comparison, TableName
from ufgvc.reports.benchmark_controls import controls_in_words
from ufgvc.reports.benchmark_rows import Row, measure
from ufgvc.reports.benchmark_tables import (
    benchmark_tables,
    gain_in_words,
    own_note,
    paper_in_words,
    points,
    points_with_interval,
    rows_of,
)
from ufgvc.reports.figures import ACCENT, INK, SECOND, SOFT, STYLE, Chart
from ufgvc.reports.page import Page, Section
from ufgvc.reports.tables import Table, percent

BUDGETS = {"equal": "the same for every method", "published": "each method with its published settings"}
CAM_TEXT = (
    "Class activation maps for the cultivar that each model names; the figure is the share of the map inside vein and contour. "
    "A map without any preference would have the share of the picture that they cover."
)


def compose_benchmark(comparison: Comparison, rows: Sequence[Row] | None = None, made: str = "") -> Page:
    """The whole page. rows: of `measure`, if they are there already.  made: the footer."""
    rows = measure(comparison) if rows is None else rows
    base, proposed = (comparison.entry(key) for key in comparison.references[:2])
    row = next((row for row in rows if proposed and row.entry is proposed), None)
    gap = row.against.get(base.key) if row and base else None
    chart = forest_chart(comparison, rows)
    chapters = [
        Section(
            f"Every method beside {base.label}", f"{FOREST_TEXT} {paper_in_words(comparison, rows)}".strip(), [chart]
        )
        if chart and base
        else None,
        *_table_chapters(benchmark_tables(comparison, rows), rows, controls_in_words(comparison, rows)),
        _looks(comparison),
    ]
    return Page(
        eyebrow="ufgvc benchmark",
        title=comparison.title,
        headline=f"{points(gap.value)} points" if gap else "not measured",
        explanation=gain_in_words(comparison, rows),
        stats=_tiles(comparison),
        sections=[chapter for chapter in chapters if chapter],
        facts={"Budget": BUDGETS[comparison.budget], **comparison.facts, **_counted(comparison)},
        warnings=[*comparison.warnings, *_warnings(comparison)],
        footer=made,
    )


FOREST_TEXT = (
    "Difference in accuracy on the same test leaves, in points. A line is the 95\u00a0% interval; where it crosses zero, no "
    "difference was shown. The intervals are not corrected for how many methods there are; p in the tables is."
)
CHAPTERS: dict[TableName, tuple[str, str]] = {
    "II": ("The methods", "The paper's methods in its order, then what it does not have."),
    "III": ("What the masks add", "The same network with neither, one or both masks to guide it in training."),
    "controls": ("What else could explain a gain", "The same comparison with one thing changed at a time."),
}


def _table_chapters(tables: Mapping[TableName, Table], rows: Sequence[Row], controls: str) -> list[Section]:
    """One chapter a table; what is true of all of them is said below the first.  controls: what the controls say, in words."""
    later = {which: table if place == 0 else replace(table, note=own_note(which, rows_of(rows, which)))
             for place, (which, table) in enumerate(tables.items())}  # fmt: skip
    chapters = []
    for which, table in later.items():
        title, text = CHAPTERS[which]
        chapters.append(Section(title, f"{text} {controls}".strip() if which == "controls" else text, [table]))
    return chapters


def forest_chart(comparison: Comparison, rows: Sequence[Row]) -> Chart | None:
    """One line an entry: its difference to the baseline with the interval, and the paper's difference; None if there is none to draw."""
    base_key, proposed_key = comparison.references[:2]
    base = comparison.entry(base_key)
    ordered = [*rows_of(rows, "II"), *(row for row in rows if "II" not in row.entry.tables)]
    shown = [row for row in ordered if base_key in row.against]
    if base is None or not shown:
        return None
    labels = ["\n".join(textwrap.wrap(row.entry.label, 24)) for row in shown]
    heights = [1 + 0.35 * label.count("\n") for label in labels]
    places = [sum(heights[:i]) + height / 2 for i, height in enumerate(heights)]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 1.0 + 0.38 * sum(heights)), layout="constrained")
        ax = figure.subplots()
        ax.axvline(0, color=INK, linewidth=1)
        marked = False
        for place, row in zip(places, shown, strict=True):
            gap = row.against[base_key]
            colour = ACCENT if row.entry.key == proposed_key else SOFT
            ax.plot(
                [100 * gap.low, 100 * gap.high],
                [place, place],
                color=colour,
                linewidth=3,
                solid_capstyle="round",
                alpha=0.5,
            )
            if row.entry.paper is not None and base.paper is not None:
                theirs = 100 * (row.entry.paper - base.paper)
                ax.plot(
                    [theirs],
                    [place],
                    "D",
                    color="none",
                    markeredgecolor=SECOND,
                    markeredgewidth=1.6,
                    markersize=9,
                    zorder=5,
                )
                marked = True
            ax.plot([100 * gap.value], [place], "o", color=colour, markersize=8, zorder=4)
            ax.text(
                1.02,
                place,
                points_with_interval(gap),
                transform=ax.get_yaxis_transform(),
                va="center",
                color=INK,
                fontsize=10,
            )
        end = "; diamond: the paper's figures" if marked else ""
        ax.set(
            yticks=places,
            yticklabels=labels,
            ylim=(sum(heights), 0),
            xlabel=f"points against {base.label} (dot, 95 % interval{end})",
        )
        ax.grid(visible=False, axis="y")
        ax.spines["left"].set_visible(False)
    spans = {row.entry.label: row.against[base_key] for row in shown}
    listed = "; ".join(f"{label} {points_with_interval(gap)}" for label, gap in spans.items())
    alt = f"Points of accuracy against {base.label}, with 95 % intervals: {listed}."
    return Chart("benchmark", f"Differences to {base.label}", alt, figure)


def _looks(comparison: Comparison) -> Section | None:
    blocks = [block for block in (comparison.cam, _energy_table(comparison)) if block]
    return Section("What they look at", CAM_TEXT, blocks) if blocks else None


def _energy_table(comparison: Comparison) -> Table | None:
    lines: list[list[str | None]] = [
        [label, percent(share), percent(chance), f"{share / chance:.2f}" if chance > 0 else None, str(leaves)]
        for label, (share, chance, leaves) in comparison.energy.items()
    ]
    columns = ("Model", "Inside vein and contour", "They cover", "Ratio", "Leaves")
    return Table("Share of the maps inside the regions, mean over leaves", columns, lines) if lines else None


def _tiles(comparison: Comparison) -> list[tuple[str, str]]:
    cells = [cell for entry in comparison.entries for cell in entry.cells]
    leaves, cultivars = (
        sum(len(draw.labels) for draw in comparison.draws),
        sum(draw.classes for draw in comparison.draws),
    )
    chance = sum(len(draw.labels) / draw.classes for draw in comparison.draws) / leaves
    return [
        (str(len(comparison.entries)), "methods and settings"),
        (f"{sum(cell.right is not None for cell in cells)} of {len(cells)}", "training runs finished"),
        (f"{leaves:,}", f"test leaves of {cultivars} cultivars"),
        (percent(chance) or "", "by chance"),
    ]


def _counted(comparison: Comparison) -> dict[str, str]:
    seeds = sorted({cell.seed for entry in comparison.entries for cell in entry.cells})
    draws = [f"{draw.name} ({len(draw.labels)} test leaves of {draw.classes} cultivars)" for draw in comparison.draws]
    return {"Test leaves": "; ".join(draws), "Seeds": ", ".join(map(str, seeds))}


def _warnings(comparison: Comparison) -> list[str]:
    """What a reader must know before believing any of it, found in the cells."""
    found = []
    chosen = [
        entry.label
        for entry in comparison.entries
        if any(c.selected_on_test and c.right is not None for c in entry.cells)
    ]
    if chosen:
        found.append(f"Selected on test, so too high: {', '.join(chosen)}. The epoch was chosen on these very leaves.")
    lost = [entry.label for entry in comparison.entries if any(cell.right is None for cell in entry.cells)]
    if lost:
        found.append(f"Runs failed or are missing: {', '.join(lost)}. The notes below the tables say which.")
    if all(len({cell.seed for cell in entry.cells if cell.right is not None}) < 2 for entry in comparison.entries):
        found.append("One seed each: how far two trainings of the same method differ was not measured.")
    return found

"""The report page of a benchmark: gain, differences with intervals, tables, and class activation maps."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace

import matplotlib as mpl
from matplotlib.figure import Figure

from ufgvc.core.region_names import join_names
from ufgvc.evaluation.benchmark_record import BenchmarkRecord
from ufgvc.evaluation.benchmark_summary import MethodSummary
from ufgvc.reports.benchmark_tables import benchmark_tables, row_notes, rows_of
from ufgvc.reports.benchmark_text import describe_controls, describe_gain, describe_paper, summary_text
from ufgvc.reports.figures import ACCENT, INK, SECOND, SOFT, STYLE, Chart, Panels
from ufgvc.reports.page import Page, Section
from ufgvc.reports.tables import Cells, Table, percent, points, points_with_interval

SCORED_LEAVES = {"fixed": "test leaves", "crossval": "leaves scored out of fold"}
BUDGETS = {"equal": "the same for every method", "published": "each method with its published settings"}
CAM_TEXT = (
    "Class activation maps for the predicted cultivar, with the share of the map inside {regions}. "
    "A uniform map has the share of the image that the masks cover."
)
DIFFERENCES_TEXT = (
    "Paired difference in accuracy on the same leaves, in points, with its 95\u00a0% interval. The intervals are "
    "not corrected for the number of methods; p in the tables is."
)
SECTIONS: dict[str, tuple[str, str]] = {
    "II": ("The methods", "The paper's methods in its order, then others."),
    "III": ("The effect of the masks", "The same network trained with no masks, those of one region, and all."),
    "controls": ("Controls", "Variants with one thing changed, to find what explains a gain."),
    "crossval": (
        "Cross-validation",
        "Training and test leaves together; every leaf is scored once a seed, out of fold.",
    ),
}
Result = tuple[BenchmarkRecord, Sequence[MethodSummary]]


def compose_benchmark(results: Sequence[Result], cam: Panels | None = None, footer: str = "") -> Page:
    """The whole page.

    results: (record, its summaries of `summarize`) of each protocol; the head of the page is of the first one.
    cam: class activation maps, of `energy_panels`.
    """
    record, summaries = results[0]
    base, proposed = (record.find(key) for key in record.references[:2])
    ours = next((one for one in summaries if proposed and one.result is proposed), None)
    gap = ours.differences.get(base.key) if ours and base else None
    chart = difference_chart(record, summaries)
    sections = []
    if chart and base:
        text = f"{DIFFERENCES_TEXT} {describe_paper(record, summaries)}".strip()
        sections.append(Section(f"Every method compared with {base.label}", text, [chart]))
    for result in results:
        sections += _table_sections(*result)
    maps = [block for block in (cam, _energy_table(record)) if block]
    if maps:
        sections.append(Section("Class activation maps", CAM_TEXT.format(regions=join_names(record.regions)), maps))
    return Page(
        eyebrow="ufgvc benchmark",
        title=record.title,
        headline=f"{points(gap.value)} points" if gap else "not measured",
        explanation=describe_gain(record, summaries),
        stats=_stats(record),
        sections=sections,
        facts={"Budget": BUDGETS[record.budget], **record.facts, **_facts(results)},
        # Both protocols may have the same one.
        warnings=list(dict.fromkeys([*record.warnings, *(each for one, _ in results for each in _warnings(one))])),
        footer=footer,
    )


def _table_sections(record: BenchmarkRecord, summaries: Sequence[MethodSummary]) -> list[Section]:
    """One section for each table; the note on the columns stands below the first only."""
    tables = benchmark_tables(record, summaries)
    sections = []
    for place, (which, table) in enumerate(tables.items()):
        title, text = SECTIONS[which]
        if which == "controls":
            text = f"{text} {describe_controls(record, summaries)}".strip()
        if which == "crossval":
            text = f"{text} {summary_text(record, summaries)}"
        note = table.note if place == 0 else row_notes(which, rows_of(summaries, which))
        sections.append(Section(title, text, [replace(table, note=note)]))
    return sections


def difference_chart(record: BenchmarkRecord, summaries: Sequence[MethodSummary]) -> Chart | None:
    """A forest plot: one line for each method with its difference to the baseline; None if none was measured."""
    base = record.find(record.references[0])
    ordered = [*rows_of(summaries, "II"), *(one for one in summaries if "II" not in one.result.tables)]
    shown = [one for one in ordered if base and base.key in one.differences]
    if base is None or not shown:
        return None
    labels = ["\n".join(textwrap.wrap(one.result.label, 24)) for one in shown]
    heights = [1 + 0.35 * label.count("\n") for label in labels]
    places = [sum(heights[:i]) + height / 2 for i, height in enumerate(heights)]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 1.0 + 0.38 * sum(heights)), layout="constrained")
        ax = figure.subplots()
        ax.axvline(0, color=INK, linewidth=1)
        for y, one in zip(places, shown, strict=True):
            gap, paper = one.differences[base.key], one.result.paper
            colour = ACCENT if one.result.key == record.references[1] else SOFT
            span = [100 * gap.low, 100 * gap.high]
            ax.plot(span, [y, y], color=colour, linewidth=3, solid_capstyle="round", alpha=0.5)
            ax.plot([100 * gap.value], [y], "o", color=colour, markersize=8, zorder=4)
            if paper is not None and base.paper is not None:
                ax.plot([100 * (paper - base.paper)], [y], "D", color="none", markeredgecolor=SECOND,
                        markeredgewidth=1.6, markersize=9, zorder=5)  # fmt: skip
            text = points_with_interval(gap)
            ax.text(1.02, y, text, transform=ax.get_yaxis_transform(), va="center", color=INK, fontsize=10)
        papers = base.paper is not None and any(one.result.paper is not None for one in shown)
        legend = f"(dot, 95 % interval{'; diamond: in the paper' if papers else ''})"
        ax.set(yticks=places, yticklabels=labels, ylim=(sum(heights), 0))
        ax.set(xlabel=f"difference to {base.label}, points {legend}")
        ax.grid(visible=False, axis="y")
        ax.spines["left"].set_visible(False)
    listed = "; ".join(f"{one.result.label} {points_with_interval(one.differences[base.key])}" for one in shown)
    alt = f"Difference in accuracy to {base.label} in points, with 95 % intervals: {listed}."
    return Chart("benchmark", f"Differences to {base.label}", alt, figure)


def _energy_table(record: BenchmarkRecord) -> Table | None:
    rows: list[Cells] = [
        [label, percent(inside), percent(covered), f"{inside / covered:.2f}" if covered > 0 else None, str(leaves)]
        for label, (inside, covered, leaves) in record.energy.items()
    ]
    columns = ("Model", f"Map inside {join_names(record.regions)}", "Image covered by them", "Ratio", "Leaves")
    return Table("Share of the maps inside the masks, mean over leaves", columns, rows) if rows else None


def _stats(record: BenchmarkRecord) -> list[tuple[str, str]]:
    runs = [run for one in record.methods for run in one.runs]
    leaves, cultivars = sum(len(one.labels) for one in record.datasets), sum(one.classes for one in record.datasets)
    chance = sum(len(one.labels) / one.classes for one in record.datasets) / leaves
    return [
        (str(len(record.methods)), "methods and variants"),
        (f"{sum(run.right is not None for run in runs)} of {len(runs)}", "training runs finished"),
        (f"{leaves:,}", f"{SCORED_LEAVES[record.protocol]} of {cultivars} cultivars"),
        (percent(chance) or "", "chance level"),
    ]


def _facts(results: Sequence[Result]) -> dict[str, str]:
    seeds = sorted({run.seed for record, _ in results for one in record.methods for run in one.runs})
    leaves = [
        f"{one.name} ({len(one.labels)} {SCORED_LEAVES[record.protocol]} of {one.classes} cultivars)"
        for record, _ in results
        for one in record.datasets
    ]
    protocols = [record.facts["Protocol"] for record, _ in results if "Protocol" in record.facts]
    facts = {"Scored leaves": "; ".join(leaves), "Seeds": ", ".join(map(str, seeds))}
    return facts | ({"Protocol": "; ".join(protocols)} if protocols else {})


def _warnings(record: BenchmarkRecord) -> list[str]:
    found = []
    failed = [one.label for one in record.methods if any(run.right is None for run in one.runs)]
    if failed:
        found.append(f"Runs failed or are missing: {', '.join(failed)}. See the notes below the tables.")
    if all(len({run.seed for run in one.runs if run.right is not None}) < 2 for one in record.methods):
        found.append("One seed each: the variance over seeds was not measured.")
    return found

"""Tables II and III and the controls of a benchmark, as tables, CSV and one paragraph of words. All numbers come from the rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from ufgvc.evaluation.comparison import Comparison, TableName
from ufgvc.evaluation.stats import Difference
from ufgvc.reports.benchmark_rows import Row, measure
from ufgvc.reports.tables import PAPER, Table, p_text, percent

# The order of the paper; what it does not have comes after, as it was given.
METHODS = ("alexnet", "vgg16", "resnet50", "inception_v3", "mobilenet_v2", "bcnn", "improved_bcnn", "nts_net", "mpn_cov", "dcl",
           "maskcov", "mask_guided")  # fmt: skip
REGIONS = ((), ("vein",), ("contour",), ("vein", "contour"))
TITLES: dict[TableName, str] = {
    "II": "Table II: the methods",
    "III": "Table III: which masks guide it",
    "controls": "Controls",
}
DCL_ROW = (
    "The paper's Table III prints as its plain ResNet-50 the figures of DCL in its Table II (53.75 and 45.33\u00a0%)."
)


def rows_of(rows: Sequence[Row], which: TableName) -> list[Row]:
    """The rows that stand in a table, in its order."""
    chosen = [row for row in rows if which in row.entry.tables]
    if which == "II":
        return sorted(chosen, key=lambda row: _place(row.entry.key, METHODS))
    return sorted(chosen, key=lambda row: _place(row.entry.regions, REGIONS)) if which == "III" else chosen


def _place(value: object, order: Sequence[object]) -> int:
    return order.index(value) if value in order else len(order)


def benchmark_table(comparison: Comparison, which: TableName, rows: Sequence[Row] | None = None) -> Table | None:
    """One of the three tables; None if no entry stands in it. rows: of `measure`, if they are there already."""
    rows = rows_of(measure(comparison) if rows is None else rows, which)
    if not rows:
        return None
    references = [entry for entry in map(comparison.entry, comparison.references) if entry]
    show_inference = any(row.entry.inference_rate is not None for row in rows)
    columns = ["Method", "Backbone", "Paper", "Right", "Accuracy", "95 % interval", "Spread (seeds)"]
    for entry in references:
        columns += [f"Against {entry.label}, points", "p"]
    columns += ["On train", "Parameters", "GFLOPs", "Training images/s", *(["Test images/s"] if show_inference else [])]
    columns += ["Minutes a run", "Learning rate"]
    cells = []
    for row in rows:
        line = [
            _label(row, which),
            row.entry.backbone,
            percent(row.entry.paper, 2),
            _right(row),
            *_accuracy(row),
            _spread(row),
        ]
        for entry in references:
            line += [_gap(row, entry.key), _p(row.corrected.get(entry.key))]
        line += [
            percent(row.train_accuracy),
            _millions(row.entry.parameters),
            _number(row.entry.gflops),
            _number(row.images_per_second),
        ]
        line += [_number(row.entry.inference_rate)] if show_inference else []
        rates = ", ".join(f"{rate:g}" for rate in row.learning_rates)
        cells.append([*line, _number(row.minutes), rates or None])
    return Table(
        TITLES[which], tuple(columns), cells, frozenset({0, 1}), f"{table_note(rows)} {own_note(which, rows)}".strip()
    )


def benchmark_tables(comparison: Comparison, rows: Sequence[Row] | None = None) -> dict[TableName, Table]:
    """The tables that have entries, by name."""
    rows = measure(comparison) if rows is None else rows
    made = {which: benchmark_table(comparison, which, rows) for which in TITLES}
    return {which: table for which, table in made.items() if table}


def _label(row: Row, which: TableName) -> str:
    """Table III names its rows as the paper does: the backbone, then the masks that guide it."""
    return (
        " + ".join((row.entry.backbone, *row.entry.regions))
        if which == "III" and row.entry.regions
        else row.entry.label
    )


def _right(row: Row) -> str | None:
    """Mean over the seeds, of the leaves: more seeds never make more leaves."""
    if row.right is None:
        return None
    return f"{row.right:.0f} of {row.leaves}" if row.right.is_integer() else f"{row.right:.1f} of {row.leaves}"


def _accuracy(row: Row) -> tuple[str | None, str | None]:
    one = row.accuracy
    return (percent(one.value), f"{100 * one.low:.1f} to {100 * one.high:.1f}\u00a0%") if one else (None, None)


def _spread(row: Row) -> str | None:
    if not row.seeds:
        return None
    return f"({row.seeds})" if row.spread is None else f"{100 * row.spread:.1f} ({row.seeds})"


def points(value: float) -> str:
    """0.0321 -> "+3.2" points, with a true minus sign."""
    # Adding 0.0 makes -0.0 positive.
    return f"{round(100 * value, 1) + 0.0:+.1f}".replace("-", "\u2212")


def points_with_interval(gap: Difference) -> str:
    """ "+3.2 (-1.0 to +7.4)" points."""
    return f"{points(gap.value)} ({points(gap.low)} to {points(gap.high)})"


def _gap(row: Row, reference: str) -> str | None:
    return points_with_interval(row.against[reference]) if reference in row.against else None


def _p(p: float | None) -> str | None:
    return None if p is None else p_text(p)


def _number(value: float | None) -> str | None:
    if value is None:
        return None
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _millions(value: int | None) -> str | None:
    return None if value is None else f"{value / 1e6:.1f} M"


def table_note(rows: Sequence[Row]) -> str:
    """What the columns mean; the same for every table."""
    notes = [
        "Right: mean over the seeds. Intervals: 95\u00a0%, bootstrap over cultivars and their leaves; the seeds are averaged first, and "
        "how far they lie apart (spread: standard deviation of the accuracy, in points, and the number of seeds) is not in the interval."
    ]
    if any(row.corrected for row in rows):
        notes.append(
            "p: paired bootstrap, by Holm's correction for all rows of the benchmark compared with the same method."
        )
    notes.append("GFLOPs: one image at the test size, two operations a multiply-add.")
    return " ".join([*notes, "Images/s and minutes depend on how many trainings shared the machine."])


def own_note(which: TableName, rows: Sequence[Row]) -> str:
    """What a reader of this table must know, row by row: settings, selection, and which runs failed."""
    told = [f"{_label(row, which)}: {'; '.join(row.notes)}." for row in rows if row.notes]
    return " ".join([*([DCL_ROW] if which == "III" else []), *told])


def to_csv(comparison: Comparison, rows: Sequence[Row] | None = None) -> str:
    """One line an entry: raw numbers (shares in [0, 1], empty if not measured), then the texts of the accuracy columns and the notes."""
    rows = measure(comparison) if rows is None else rows
    references = [key for key in comparison.references if comparison.entry(key)]
    lines = [_csv_line(row, references) for row in rows]
    buffer = io.StringIO()
    if lines:
        writer = csv.DictWriter(buffer, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    return buffer.getvalue()


def _csv_line(row: Row, references: Sequence[str]) -> dict[str, object]:
    entry, accuracy = row.entry, row.accuracy
    line: dict[str, object] = {
        "key": entry.key, "label": entry.label, "method": entry.method, "backbone": entry.backbone, "regions": " ".join(entry.regions),
        "tables": " ".join(sorted(entry.tables)), "paper": entry.paper, "draws": len(row.draws), "seeds": row.seeds or None,
        "runs": sum(cell.right is not None for cell in entry.cells), "runs_lost": sum(cell.right is None for cell in entry.cells),
        "right": row.right, "leaves": row.leaves or None, "accuracy": accuracy and accuracy.value, "low": accuracy and accuracy.low,
        "high": accuracy and accuracy.high, "spread": row.spread,
    }  # fmt: skip
    for key in references:
        gap = row.against.get(key)
        line |= {
            f"against_{key}": gap and gap.value,
            f"against_{key}_low": gap and gap.low,
            f"against_{key}_high": gap and gap.high,
        }
        line |= {f"against_{key}_p": gap and gap.p, f"against_{key}_p_holm": row.corrected.get(key)}
    line |= {
        "parameters": entry.parameters, "gflops": entry.gflops, "training_images_per_second": row.images_per_second,
        "test_images_per_second": entry.inference_rate, "train_accuracy": row.train_accuracy, "minutes": row.minutes,
        "learning_rates": " ".join(f"{rate:g}" for rate in row.learning_rates), "right_text": _right(row),
        "accuracy_text": _accuracy(row)[0], "interval_text": _accuracy(row)[1], "spread_text": _spread(row),
    }  # fmt: skip
    line |= {f"against_{key}_text": _gap(row, key) for key in references}
    return line | {"note": "; ".join(row.notes)}


def reading(comparison: Comparison, rows: Sequence[Row] | None = None) -> str:
    """What the benchmark says of the proposed method against the baseline, in words, beside the paper's own difference."""
    rows = measure(comparison) if rows is None else rows
    return " ".join(part for part in (gain_in_words(comparison, rows), paper_in_words(comparison, rows)) if part)


def gain_in_words(comparison: Comparison, rows: Sequence[Row]) -> str:
    """The difference of the two references, how sure it is, and how far two seeds differ; or why there is none."""
    found = {row.entry.key: row for row in rows}
    base, proposed = comparison.references[:2]
    for key in (base, proposed):
        if key not in found or found[key].accuracy is None:
            return (
                f"No run of {found[key].entry.label if key in found else key} finished, so the gain was not measured."
            )
    row, plain = found[proposed], found[base]
    gap, p = row.against.get(base), row.corrected.get(base)
    if gap is None or p is None:
        return f"No test leaves were named by both {row.entry.label} and {plain.entry.label}, so the gain was not measured."
    amount = round(100 * gap.value, 1)
    than = (
        f"{abs(amount):.1f} points {'more' if amount > 0 else 'less'} of the test leaves rightly than"
        if amount
        else "as many leaves as"
    )
    family = sum(base in other.against for other in rows)
    sure = f"95\u00a0% interval {points(gap.low)} to {points(gap.high)}; p {p_text(gap.p)}, {p_text(p)} by Holm's correction for {family} rows"
    told = [f"{row.entry.label} named {than} {plain.entry.label} ({sure}).", _verdict(gap.p, p)]
    if row.spread is not None and plain.spread is not None:
        told.append(f"From seed to seed the two vary by {100 * row.spread:.1f} and {100 * plain.spread:.1f} points.")
    return " ".join(told)


def _verdict(p: float, corrected: float) -> str:
    if corrected < 0.05:
        return "That is more than the choice of test leaves explains."
    if p < 0.05:
        return "By itself that would count as a difference; among so many comparisons it does not."
    return "That shows no difference: the choice of test leaves explains as much."


def paper_in_words(comparison: Comparison, rows: Sequence[Row]) -> str:
    """The paper's differences of Table II, and where they lie against our interval; empty if ours was not measured."""
    base, proposed = comparison.references[:2]
    gap = next((row.against[base] for row in rows if row.entry.key == proposed and base in row.against), None)
    if gap is None:
        return ""
    told = []
    for name, figures in PAPER.items():
        theirs = (figures["mask_guided", ("vein", "contour")] - figures["resnet50", ()]) / 100
        where = "inside" if gap.low <= theirs <= gap.high else "above" if theirs > gap.high else "below"
        told.append(f"{points(theirs)} on {name} ({where} that interval)")
    return f"The paper's figures differ by {' and '.join(told)}; it quotes its ResNet-50 from another paper."

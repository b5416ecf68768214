"""Tables II and III and the controls of a benchmark, and all of its methods as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from ufgvc.evaluation.benchmark_record import BenchmarkRecord
from ufgvc.evaluation.benchmark_summary import MethodSummary
from ufgvc.reports.tables import (
    Cells,
    Table,
    count_of,
    interval,
    number,
    p_text,
    percent,
    points_with_interval,
    spread_text,
)

# The order of the paper; methods that it does not have follow in the order of the benchmark.
METHODS = ("alexnet", "vgg16", "resnet50", "inception_v3", "mobilenet_v2", "bcnn", "improved_bcnn", "nts_net",
           "mpn_cov", "dcl", "maskcov", "mask_guided")  # fmt: skip
TITLES: dict[str, str] = {
    "II": "Table II: the methods",
    "III": "Table III: the masks that guide the network",
    "controls": "Controls",
    "crossval": "Cross-validation: every leaf scored out of fold",
}
DCL_NOTE = (
    "The figures of the plain ResNet-50 in the paper's Table III are those of DCL in its Table II (53.75 and "
    "45.33\u00a0%)."
)


def rows_of(summaries: Sequence[MethodSummary], which: str) -> list[MethodSummary]:
    """The methods of a table (a TableName, or crossval: all methods), in its order."""
    chosen = [one for one in summaries if which == "crossval" or which in one.result.tables]
    if which in ("II", "crossval"):
        return sorted(chosen, key=lambda one: _rank(one.result.key, METHODS))
    if which == "III":  # no region, each alone, all, in the order in which the row with all names them
        order = max((one.result.regions for one in chosen), key=len, default=())
        return sorted(chosen, key=lambda one: (len(one.result.regions), *(_rank(r, order) for r in one.result.regions)))
    return chosen


def _rank(value: object, order: Sequence[object]) -> int:
    return order.index(value) if value in order else len(order)


def benchmark_tables(record: BenchmarkRecord, summaries: Sequence[MethodSummary]) -> dict[str, Table]:
    """{TableName: table} of the tables that have rows; of a cross-validation {"crossval": its table}."""
    names = [which for which in TITLES if (which == "crossval") == (record.protocol == "crossval")]
    made = {which: benchmark_table(record, which, summaries) for which in names}
    return {which: table for which, table in made.items() if table}


def benchmark_table(record: BenchmarkRecord, which: str, summaries: Sequence[MethodSummary]) -> Table | None:
    """One of the tables of TITLES; None without rows."""
    rows = rows_of(summaries, which)
    if not rows:
        return None
    references = [one for one in map(record.find, record.references) if one]
    columns = ["Method", "Backbone", "Paper", "Correct", "Accuracy", "95 % interval", "Spread (seeds)"]
    for reference in references:
        columns += [f"Against {reference.label}, points", "p"]
    columns += ["Train accuracy", "Parameters", "GFLOPs", "Training images/s", "Minutes per run", "Learning rate"]
    cells = []
    for one in rows:
        line: Cells = [_label(one, which), one.result.backbone, percent(one.result.paper, 2), *_accuracy(one)]
        for reference in references:
            p = one.corrected.get(reference.key)
            line += [_difference(one, reference.key), None if p is None else p_text(p)]
        parameters = one.result.parameters
        line += [percent(one.train_accuracy), None if parameters is None else f"{parameters / 1e6:.1f} M"]
        line += [number(one.result.gflops), number(one.images_per_second), number(one.minutes)]
        cells.append([*line, ", ".join(f"{rate:g}" for rate in one.learning_rates) or None])
    note = f"{_column_note(rows, which)} {row_notes(which, rows)}".strip()
    return Table(TITLES[which], tuple(columns), cells, frozenset({0, 1}), note)


def _label(one: MethodSummary, which: str) -> str:
    """Table III names its rows as the paper does: the backbone, then the masks that guide it."""
    in_table_3 = which == "III" and one.result.regions
    return " + ".join((one.result.backbone, *one.result.regions)) if in_table_3 else one.result.label


def _accuracy(one: MethodSummary) -> Cells:
    """Correct leaves, accuracy, interval and spread; correct leaves are a mean over the seeds, not a sum."""
    if one.right is None or one.accuracy is None:
        return [None] * 4
    accuracy = one.accuracy
    spread = spread_text(one.spread, one.seeds)
    return [count_of(one.right, one.leaves), percent(accuracy.value), interval(accuracy), spread]


def _difference(one: MethodSummary, reference: str) -> str | None:
    return points_with_interval(one.differences[reference]) if reference in one.differences else None


def _column_note(rows: Sequence[MethodSummary], which: str) -> str:
    resampled = "groups of leaves" if which == "crossval" else "cultivars and, within them, groups of leaves"
    notes = [
        f"Correct: mean over the seeds. Intervals: 95\u00a0%, bootstrap over {resampled} (a plant, a photograph; "
        "single leaves where these are not known); the seeds are averaged first, so the variance over seeds (spread: "
        "standard deviation of the accuracy in points, and the number of seeds) is not in the interval."
    ]
    if any(one.corrected for one in rows):
        notes.append(
            "p: paired bootstrap with Holm's correction for all methods that are compared with the same reference."
        )
    notes.append("GFLOPs: one image at the test size, two operations per multiply-add.")
    return " ".join([*notes, "Images/s and minutes depend on how many trainings shared the machine."])


def row_notes(which: str, rows: Sequence[MethodSummary]) -> str:
    """The notes on single rows: options, coverage and failed runs."""
    notes = [f"{_label(one, which)}: {'; '.join(one.notes)}." for one in rows if one.notes]
    return " ".join([*([DCL_NOTE] if which == "III" else []), *notes])


def to_csv(results: Sequence[tuple[BenchmarkRecord, Sequence[MethodSummary]]]) -> str:
    """One line for each protocol and method: raw numbers (shares in [0, 1], empty if not measured), then the texts of
    the tables.

    results: of the protocols, with the same methods.
    """
    lines = []
    for record, summaries in results:
        references = [key for key in record.references if record.find(key)]
        lines += [{"protocol": record.protocol, **_csv_line(one, references)} for one in summaries]
    buffer = io.StringIO()
    if lines:
        writer = csv.DictWriter(buffer, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    return buffer.getvalue()


def _csv_line(one: MethodSummary, references: Sequence[str]) -> dict[str, object]:
    result, accuracy = one.result, one.accuracy
    line: dict[str, object] = {
        "key": result.key, "label": result.label, "method": result.method, "backbone": result.backbone,
        "regions": " ".join(result.regions), "tables": " ".join(sorted(result.tables)), "paper": result.paper,
        "datasets": len(one.datasets), "seeds": one.seeds or None,
        "runs": sum(run.right is not None for run in result.runs),
        "runs_failed": sum(run.right is None for run in result.runs),
        "correct": one.right, "leaves": one.leaves or None, "accuracy": accuracy and accuracy.value,
        "low": accuracy and accuracy.low, "high": accuracy and accuracy.high, "spread": one.spread,
    }  # fmt: skip
    for key in references:
        gap, name = one.differences.get(key), f"against_{key}"
        line |= {name: gap and gap.value, f"{name}_low": gap and gap.low, f"{name}_high": gap and gap.high}
        line |= {f"{name}_p": gap and gap.p, f"{name}_p_holm": one.corrected.get(key)}
    texts = dict(zip(("correct_text", "accuracy_text", "interval_text", "spread_text"), _accuracy(one), strict=True))
    line |= {
        "parameters": result.parameters, "gflops": result.gflops, "training_images_per_second": one.images_per_second,
        "train_accuracy": one.train_accuracy, "minutes": one.minutes,
        "learning_rates": " ".join(f"{rate:g}" for rate in one.learning_rates), **texts,
    }  # fmt: skip
    line |= {f"against_{key}_text": _difference(one, key) for key in references}
    return line | {"note": "; ".join(one.notes)}

"""The tables of a report as plain values: the page, the README and the terminal show the same cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

from ufgvc.evaluation.metrics import McNemar, Proportion, Scores, confused_pairs, precision

# Top-1 accuracy in percent, Tables II and III of the paper; keyed by data set, then by (method, regions).
PAPER: dict[str, dict[tuple[str, tuple[str, ...]], float]] = {
    "cotton80": {
        ("alexnet", ()): 22.92, ("vgg16", ()): 50.83, ("resnet50", ()): 52.50, ("inception_v3", ()): 37.50,
        ("mobilenet_v2", ()): 49.58, ("improved_bcnn", ()): 45.00, ("nts_net", ()): 51.67, ("mpn_cov", ()): 50.00,
        ("dcl", ()): 53.75, ("maskcov", ()): 58.75, ("mask_guided", ("vein", "contour")): 62.08,
        ("mask_guided", ("vein",)): 58.33, ("mask_guided", ("contour",)): 60.60,
    },
    "soylocal200": {
        ("alexnet", ()): 19.50, ("vgg16", ()): 39.33, ("resnet50", ()): 38.83, ("inception_v3", ()): 23.00,
        ("mobilenet_v2", ()): 34.67, ("improved_bcnn", ()): 33.33, ("nts_net", ()): 42.67, ("mpn_cov", ()): 38.17,
        ("dcl", ()): 45.33, ("maskcov", ()): 46.17, ("mask_guided", ("vein", "contour")): 49.67,
        ("mask_guided", ("vein",)): 46.16, ("mask_guided", ("contour",)): 47.83,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """title, column names, rows of cells (None: not measured, an empty cell), columns that hold text, a note."""

    title: str
    columns: tuple[str, ...]
    rows: list[list[str | None]]
    text_columns: frozenset[int] = field(default=frozenset({0}))
    note: str = ""

    def to_html(self) -> str:
        """A <table> with a caption; numbers are aligned to the right."""
        head = "".join(f'<th scope="col"{self._kind(i)}>{escape(name)}</th>' for i, name in enumerate(self.columns))
        body = []
        for row in self.rows:
            cells = [f'<th scope="row">{escape(row[0] or "")}</th>']
            cells += [f"<td{self._kind(i)}>{escape(cell or '')}</td>" for i, cell in enumerate(row) if i]
            body.append(f"<tr>{''.join(cells)}</tr>")
        return f"<table><caption>{escape(self.title)}</caption><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"

    def to_markdown(self) -> str:
        marks = ["---" if i in self.text_columns else "---:" for i in range(len(self.columns))]
        lines = [self.columns, marks, *([(cell or "").replace("|", "\\|") for cell in row] for row in self.rows)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def _kind(self, column: int) -> str:
        return "" if column in self.text_columns else ' class="n"'


def percent(value: float | None, digits: int = 1) -> str | None:
    """0.6208 -> "62.1 %"; None and NaN stay empty."""
    return None if value is None or np.isnan(value) else f"{100 * value:.{digits}f}\u00a0%"


def interval(value: Proportion) -> str:
    return f"{100 * value.low:.1f} to {100 * value.high:.1f}\u00a0%"


def p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def paper_accuracy(paper: str | None, method: str, options: Mapping[str, object]) -> float | None:
    """The paper's accuracy (0 to 1) for this method on this data set; None where it has none."""
    regions = options.get("regions", ("vein", "contour")) if method == "mask_guided" else ()
    known = PAPER.get(paper or "", {}).get((method, tuple(regions) if isinstance(regions, list | tuple) else ()))
    return None if known is None else known / 100


def models_table(
    scores: Mapping[str, Scores], tests: Mapping[str, McNemar], paper: Mapping[str, float | None] | None = None
) -> Table:
    """One row a model; the first is the model under report, the others are compared with it by McNemar's test."""
    top_k = next(iter(scores.values())).top_k
    show_paper = bool(paper) and any(value is not None for value in (paper or {}).values())
    columns = ["Model", "Right", "Accuracy", "95 % interval", "Balanced", f"Top {top_k}"]
    columns += ["Gains", "Losses", "p"] if tests else []
    columns += ["Paper"] if show_paper else []
    rows: list[list[str | None]] = []
    for label, one in scores.items():
        accuracy = one.accuracy
        row = [label, f"{accuracy.k} of {accuracy.n}", percent(accuracy.value), interval(accuracy)]
        row += [percent(one.balanced_accuracy), percent(one.top.value)]
        if tests:
            test = tests.get(label)
            row += [str(test.only_second), str(test.only_first), p_text(test.p_value)] if test else [None] * 3
        if show_paper:
            row.append(percent((paper or {}).get(label), 2))
        rows.append(row)
    note = "Interval: Wilson. Balanced: mean over the cultivars."
    if tests:
        note += " Gains, losses: leaves that only this model, only the report's model named rightly; p: exact McNemar test; one seed each."
    return Table("Accuracy on the test leaves", tuple(columns), rows, note=note)


def cultivar_table(classes: Sequence[str], one: Scores) -> Table:
    """One row a cultivar: leaves, right, recall, precision, and what it was mistaken for most often."""
    exact = precision(one.confusion)
    rows: list[list[str | None]] = []
    for label, name in enumerate(classes):
        counts = one.confusion[label]
        others = counts.copy()
        others[label] = 0
        mistaken = f"{classes[int(others.argmax())]} ({others.max()})" if others.max() else None
        rows.append([name, str(counts.sum()), str(counts[label]), percent(float(one.recall[label])),
                     percent(float(exact[label])), mistaken])  # fmt: skip
    columns = ("Cultivar", "Leaves", "Right", "Recall", "Precision", "Most often taken for")
    return Table("Every cultivar", columns, rows, text_columns=frozenset({0, 5}))


def confused_table(classes: Sequence[str], one: Scores, most: int = 12) -> Table:
    """The pairs of cultivars that were confused most often."""
    rows: list[list[str | None]] = []
    for true, guess, leaves in confused_pairs(one.confusion, most):
        rows.append([classes[true], classes[guess], str(leaves), str(one.confusion[true].sum())])
    columns = ("Cultivar", "Taken for", "Leaves", "Of")
    return Table("Pairs confused most often", columns, rows, text_columns=frozenset({0, 1}))

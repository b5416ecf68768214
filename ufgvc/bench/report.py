"""The tables of `ufgvc bench`, and its files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ufgvc.bench.growth import Grown
from ufgvc.bench.sizing import SIZES, Rates, size_rows, size_text
from ufgvc.bench.steps import TimedStep
from ufgvc.bench.timing import Measurement, Spread
from ufgvc.reports.tables import Table

COLUMNS = ("", "Median", "Quartiles", "Unit", "Ratio", "Quartiles", "Beside")
TEXT = frozenset({0, 3, 6})


@dataclass
class BenchReport:
    """Everything that a run found.  measured: lines by the title of their table.  note: what a table's readers should know."""

    machine: dict[str, Any]
    settings: dict[str, Any]
    command: str
    measured: dict[str, list[Measurement]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    steps: list[TimedStep] = field(default_factory=list)
    matrix_rates: dict[str, Spread] = field(default_factory=dict)
    growth: list[Grown] = field(default_factory=list)
    rates: Rates | None = None
    seconds: float = 0.0

    def tables(self) -> list[Table]:
        found = [steps_table(self.steps, self.matrix_rates)] if self.steps else []
        found += [measured_table(title, rows, self.notes.get(title, "")) for title, rows in self.measured.items()]
        if self.growth:
            found.append(growth_table(self.growth))
        if self.rates:
            found.append(sizing_table(self.rates))
        return found

    def machine_line(self) -> str:
        about = self.machine
        gpu = f"; {about['gpu']}, {about['gpu_memory_gb']:g} GB" if about.get("gpu") else "; no GPU"
        load = f"load {about['load']:g} at the start"
        packages = ", ".join(
            f"{name} {about['versions'][name]}" for name in ("torch", "ray", "pillow") if name in about["versions"]
        )
        return f"{about['cpu']}, {about['cores']} cores, {about['memory_gb']:g} GB{gpu}; {load}; {packages}"

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False, default=str) + "\n"

    def to_markdown(self) -> str:
        lines = [
            "# ufgvc bench",
            "",
            f"{self.machine['when']}, commit {self.machine['commit']}: {self.machine_line()}",
            "",
        ]
        lines += [f"`{self.command}`, {self.seconds:.0f} s", ""]
        for table in self.tables():
            lines += [f"## {table.title}", "", table.to_markdown(), "", *([table.note, ""] if table.note else [])]
        if self.growth:
            lines += ["![time and peak memory over the rows](growth.png)", ""]
        return "\n".join(lines)

    def write(self, folder: Path) -> None:
        (folder / "bench.json").write_text(self.to_json(), encoding="utf-8")
        (folder / "bench.md").write_text(self.to_markdown(), encoding="utf-8")


def number(value: float) -> str:
    """Three figures that mean something: 0.0123, 1.23, 123, 12,300."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def quartiles(spread: Spread) -> str | None:
    return None if spread.low == spread.high else f"{number(spread.low)} to {number(spread.high)}"


def measured_table(title: str, rows: Sequence[Measurement], note: str) -> Table:
    cells: list[list[str | None]] = []
    for row in rows:
        cells.append([row.name, number(row.value.median), quartiles(row.value), row.unit, *_ratio_cells(row)])
    return Table(title, COLUMNS, cells, TEXT, note)


def _ratio_cells(row: Measurement) -> list[str | None]:
    return [number(row.ratio.median), quartiles(row.ratio), row.beside] if row.ratio else [None, None, None]


def steps_table(steps: Sequence[TimedStep], rates: Mapping[str, Spread]) -> Table:
    rows: list[list[str | None]] = []
    for step in steps:
        own = [
            number(step.row.value.median),
            quartiles(step.row.value),
            number(step.milliseconds),
            size_text(step.memory),
        ]
        share = [f"{100 * step.share.median:.0f} %", number(step.product.median)]
        rows.append([step.case.name, *own, *share, *_ratio_cells(step.row)])
    columns = (
        "Case",
        "Images/s",
        "Quartiles",
        "ms/step",
        "Memory",
        "Share",
        "of TFLOP/s",
        "Ratio",
        "Quartiles",
        "Beside",
    )
    products = ", ".join(f"{name} {number(rate.median)} TFLOP/s" for name, rate in rates.items())
    note = (
        "Forward, backward and optimizer on one resident batch. Share: the step's operations a second, of those of a square matrix "
        f"product of that precision, timed in turn with it (before, by themselves: {products}). Memory: on a GPU the measured peak; "
        "on a CPU what backward keeps, weights, gradients and momentum, counted."
    )
    return Table("Training step", columns, rows, frozenset({0, 9}), note)


def growth_table(grown: Sequence[Grown]) -> Table:
    rows: list[list[str | None]] = []
    for one in grown:
        cells = [
            f"{seconds:.3g} s, {memory / 1e9:.2f} GB" for seconds, memory in zip(one.seconds, one.memory, strict=True)
        ]
        powers = [f"{k:.2f}" if k is not None else "-" for k in (one.time_exponent, one.memory_exponent)]
        rows.append([f"{one.step} ({', '.join(f'{n:,}' for n in one.rows)} rows)", *cells, *powers])
    columns = ("", "1 x", "10 x", "100 x", "Time: k", "Memory: k")
    note = "Peak memory of all processes. k: fixed + c rows^k through the three sizes; - where the value does not rise with the rows."
    return Table("Growth", columns, rows, frozenset({0}), note)


def sizing_table(rates: Rates) -> Table:
    note = f"Rates measured above, on this machine, times the leaves; training: {rates.case}. Empty: not measured in this run."
    return Table("What this machine would need", ("", *SIZES), size_rows(rates), frozenset({0}), note)

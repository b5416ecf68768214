"""The results of `ufgvc bench` as tables and files, and what larger data sets would need on this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ufgvc.bench.growth import StepGrowth, speed_up
from ufgvc.bench.steps import TimedStep
from ufgvc.bench.timing import Measurement, Spread
from ufgvc.core.region_names import PAPER_REGIONS
from ufgvc.data.cache import decoded_size
from ufgvc.reports.tables import Table

COLUMNS = ("", "Median", "Quartiles", "Unit", "Ratio", "Quartiles", "Baseline")
TEXT = frozenset({0, 3, 6})


SIZES = {"10 thousand": 10_000, "1 million": 1_000_000, "100 million": 100_000_000}
RESIZE = 512  # pixels of the decoded set, with both masks


@dataclass(frozen=True)
class Rates:
    """Photographs or images a second of the whole machine; None: not measured in this run.

    predict: of `evaluate` in one process.  device_memory: free bytes of the GPU.
    disk: free bytes at the output folder.
    """

    photograph_bytes: float
    decode: float | None
    train: float | None
    case: str
    predict: float | None
    device_memory: int | None
    disk: int


def cache_location(rows: int, rates: Rates) -> str:
    """Where `--train.cache auto` would keep the decoded set of so many leaves (data/cache.py: choose_cache)."""
    need = decoded_size(rows, RESIZE, len(PAPER_REGIONS))
    if rates.device_memory is not None and need < rates.device_memory / 3:
        return "on the GPU"
    return "on disk" if need < rates.disk / 2 else "streamed"


def sizing_rows(rates: Rates) -> list[list[str | None]]:
    """One row a quantity: its name, and a cell for each of SIZES: what the data set would need on this machine."""
    rows: list[list[str | None]] = [
        ["photographs"],
        ["decoded set, 512 px with masks"],
        ["cached"],
        ["decoding once"],
        ["an epoch"],
        ["limited by"],
        ["predict once"],
    ]
    for count in SIZES.values():
        place = cache_location(count, rates)
        cells: list[str | None] = [
            format_bytes(count * rates.photograph_bytes),
            format_bytes(decoded_size(count, RESIZE, len(PAPER_REGIONS))),
            place,
            format_seconds(count / rates.decode) if rates.decode else None,
            *_epoch_cells(count, place, rates),
            format_seconds(count / rates.predict) if rates.predict else None,
        ]
        for row, cell in zip(rows, cells, strict=True):
            row.append(cell)
    return rows


def _epoch_cells(count: int, place: str, rates: Rates) -> tuple[str | None, str | None]:
    """(time of an epoch, what limits it): the step, or decoding where every epoch is streamed."""
    if not rates.train:
        return None, None
    if place == "streamed":
        if not rates.decode:
            return None, None
        slowest = min(rates.train, rates.decode)
        return format_seconds(count / slowest), "the step" if slowest == rates.train else "decoding"
    return format_seconds(count / rates.train), "the step"


def format_bytes(size: float) -> str:
    """1.9e9 -> "1.9 GB"."""
    for unit, factor in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size / 1e6:.3g} MB"


def format_seconds(seconds: float) -> str:
    """93 -> "1.6 min"."""
    for unit, length in (("days", 86400 * 2), ("h", 3600 * 2), ("min", 90)):
        if seconds >= length:
            return f"{seconds / {'days': 86400, 'h': 3600, 'min': 60}[unit]:.3g} {unit}"
    return f"{seconds:.2g} s"


@dataclass
class BenchReport:
    """All results of `ufgvc bench`.  measured, notes: rows and note of each table, by its title."""

    machine: dict[str, Any]
    settings: dict[str, Any]
    command: str
    measured: dict[str, list[Measurement]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    steps: list[TimedStep] = field(default_factory=list)
    matrix_rates: dict[str, Spread] = field(default_factory=dict)
    growth: list[StepGrowth] = field(default_factory=list)
    rates: Rates | None = None
    seconds: float = 0.0

    def tables(self) -> list[Table]:
        """The tables of what was measured."""
        found = [steps_table(self.steps, self.matrix_rates)] if self.steps else []
        found += [measured_table(title, rows, self.notes.get(title, "")) for title, rows in self.measured.items()]
        if self.growth:
            found.append(growth_table(self.growth))
        if self.rates:
            found.append(sizing_table(self.rates))
        return found

    def machine_line(self) -> str:
        """The machine in one line."""
        about = self.machine
        gpu = f"; {about['gpu']}, {about['gpu_memory_gb']:g} GB" if about.get("gpu") else "; no GPU"
        load = f"load {about['load']:g} at the start"
        packages = ", ".join(
            f"{name} {about['versions'][name]}" for name in ("torch", "ray", "pillow") if name in about["versions"]
        )
        return f"{about['cpu']}, {about['cores']} cores, {about['memory_gb']:g} GB{gpu}; {load}; {packages}"

    def json_text(self) -> str:
        """The content of bench.json."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False, default=str) + "\n"

    def to_markdown(self) -> str:
        """The content of bench.md."""
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
        """Writes bench.json and bench.md."""
        (folder / "bench.json").write_text(self.json_text(), encoding="utf-8")
        (folder / "bench.md").write_text(self.to_markdown(), encoding="utf-8")


def format_number(value: float) -> str:
    """Three significant digits: 0.0123, 1.23, 123, 12,300."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def format_quartiles(spread: Spread) -> str | None:
    """ "1.2 to 1.4"; None for a single measurement."""
    return None if spread.low == spread.high else f"{format_number(spread.low)} to {format_number(spread.high)}"


def measured_table(title: str, rows: Sequence[Measurement], note: str) -> Table:
    """A row for each measurement."""
    cells: list[list[str | None]] = []
    for row in rows:
        cells.append(
            [row.name, format_number(row.value.median), format_quartiles(row.value), row.unit, *_ratio_cells(row)]
        )
    return Table(title, COLUMNS, cells, TEXT, note)


def _ratio_cells(row: Measurement) -> list[str | None]:
    return (
        [format_number(row.ratio.median), format_quartiles(row.ratio), row.baseline]
        if row.ratio
        else [None, None, None]
    )


def steps_table(steps: Sequence[TimedStep], rates: Mapping[str, Spread]) -> Table:
    """A row for each training step.  rates: TFLOP/s of a matrix product by precision."""
    rows: list[list[str | None]] = []
    for step in steps:
        own = [
            format_number(step.row.value.median),
            format_quartiles(step.row.value),
            format_number(step.milliseconds),
            format_bytes(step.memory),
        ]
        share = [f"{100 * step.share.median:.0f} %", format_number(step.product.median)]
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
        "Baseline",
    )
    products = ", ".join(f"{name} {format_number(rate.median)} TFLOP/s" for name, rate in rates.items())
    note = (
        "Forward, backward and optimizer on one resident batch. Share: of the FLOP/s of a square matrix product of "
        f"that precision, timed in turn with it (before, on its own: {products}). Memory: on a GPU the measured peak; "
        "on a CPU the counted bytes of saved tensors, weights, gradients and momentum."
    )
    return Table("Training step", columns, rows, frozenset({0, 9}), note)


def growth_table(grown: Sequence[StepGrowth]) -> Table:
    """A row for each step and number of cores, with a column for each number of rows."""
    rows: list[list[str | None]] = []
    for one in grown:
        sizes = zip(one.cpu, one.seconds, one.memory, strict=True)
        cells = [f"{cpu:.3g} s, {seconds:.3g} s, {memory / 1e9:.2f} GB" for cpu, seconds, memory in sizes]
        powers = [f"{k:.2f}" if k is not None else "-" for k in (one.cpu_exponent, one.memory_exponent)]
        faster = speed_up(one, grown)
        row = f"{one.step} ({', '.join(f'{n:,}' for n in one.rows)} rows)"
        rows.append([row, str(one.cores), *cells, *powers, f"{faster:.2f}" if faster is not None else None])
    columns = ("", "Cores", "1 x", "10 x", "100 x", "CPU time: k", "Memory: k", "Speed-up")
    note = (
        "CPU seconds of all processes, seconds from start to end, peak memory of all processes. k: fixed + c rows^k "
        "through the three sizes; - where the value does not rise with the rows. Speed-up: of the seconds that grow, "
        "from the fewest cores."
    )
    return Table("Growth", columns, rows, frozenset({0}), note)


def sizing_table(rates: Rates) -> Table:
    """What larger data sets would need, from the measured rates."""
    note = (
        f"Rates measured above, on this machine, times the leaves; training: {rates.case}. "
        "Empty: not measured in this run."
    )
    return Table("What this machine would need", ("", *SIZES), sizing_rows(rates), frozenset({0}), note)

"""`ufgvc benchmark`: all methods and ablations on the same data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field

from ufgvc.commands.fields import HasMaskKind, HasRay, WritesRuns
from ufgvc.core.config import select_fields
from ufgvc.core.places import Place
from ufgvc.experiments.settings import BenchmarkSettings
from ufgvc.tracking.context import Context

if TYPE_CHECKING:
    from ufgvc.experiments.benchmark import BenchmarkResult

# What a training costs stands on the report's page: a terminal has no room for sixteen columns.
NOT_SHOWN = ("Backbone", "Parameters", "GFLOPs", "Training", "Minutes", "Learning")


def as_tuple(value: Any) -> Any:
    """A single text as a tuple of one: YAML may give one data set without brackets."""
    return (value,) if isinstance(value, str) else value


class Benchmark(HasRay, WritesRuns, HasMaskKind, BenchmarkSettings):
    """Settings of `ufgvc benchmark`."""

    data: Annotated[tuple[Place, ...], BeforeValidator(as_tuple)] = Field(min_length=1)
    """ingested data sets; several are samples of cultivars whose test leaves count together"""


def run(settings: Benchmark, context: Context) -> BenchmarkResult:
    """Runs the benchmark and prints its tables."""
    from ufgvc.experiments.benchmark import benchmark
    from ufgvc.reports.tables import show_tables

    result = benchmark(settings.data, select_fields(BenchmarkSettings, settings), context)
    show_tables(result.tables, without=NOT_SHOWN)
    print(result.summary)
    if result.failed:
        print(f"{result.failed} trainings failed; the same command tries them again")
    if result.missing:
        print(f"{result.missing} trainings have not ended; without --report-only the same command runs them")
    print(f"everything else, failures too: {result.folder}/report.html")
    return result

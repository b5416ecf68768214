"""A benchmark with every kind of row, and the statistics of its rows."""

from __future__ import annotations

import pytest

from tests.unit.benchmark_report.synthetic_benchmarks import RESAMPLES, whole_benchmark
from ufgvc.evaluation.benchmark_record import BenchmarkRecord
from ufgvc.evaluation.benchmark_summary import MethodSummary, summarize


@pytest.fixture(scope="module")
def whole() -> BenchmarkRecord:
    return whole_benchmark()


@pytest.fixture(scope="module")
def rows(whole: BenchmarkRecord) -> list[MethodSummary]:
    return summarize(whole, RESAMPLES)

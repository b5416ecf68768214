"""Synthetic benchmarks for the tests of the benchmark report."""

from __future__ import annotations

import numpy as np

from ufgvc.evaluation.benchmark_record import BenchmarkDataset, BenchmarkRecord, MethodResult, RunResult

CULTIVARS = 10
DATASETS = (
    BenchmarkDataset("a", np.repeat(np.arange(CULTIVARS), 3), CULTIVARS),
    BenchmarkDataset("b", np.repeat(np.arange(CULTIVARS), 3), CULTIVARS),
)
RESAMPLES = 400


def first(k: int) -> np.ndarray:
    """The first k leaves correct."""
    return np.arange(3 * CULTIVARS) < k


def method(key: str, right: dict[tuple[str, int], int | str], **changes) -> MethodResult:
    """right: {(dataset, seed): correct leaves, or the error}."""
    runs = [
        RunResult(dataset, seed, None, k, 5.0)
        if isinstance(k, str)
        else RunResult(dataset, seed, first(k), None, 60.0 * (seed + 1), 100.0, (0.01,))
        for (dataset, seed), k in right.items()
    ]
    defaults = {
        "label": key,
        "method": key,
        "backbone": "ResNet-50",
        "tables": frozenset({"II"}),
        "runs": tuple(runs),
    }
    return MethodResult(key=key, **{**defaults, **changes})


def both(low: int, high: int) -> dict[tuple[str, int], int | str]:
    return {("a", 0): low, ("a", 1): high, ("b", 0): low, ("b", 1): high}


def record(*methods: MethodResult, **changes) -> BenchmarkRecord:
    return BenchmarkRecord("A <benchmark>", "equal", DATASETS, methods, **changes)


def whole_benchmark() -> BenchmarkRecord:
    """Methods of both tables of the paper with finished, failed and missing runs."""
    everywhere = frozenset({"II", "III"})
    guided = {"method": "mask_guided", "tables": frozenset({"III"})}
    return record(
        method(
            "mask_guided",
            both(21, 24),
            label="mask_guided",
            paper=0.6208,
            tables=everywhere,
            regions=("vein", "contour"),
        ),
        method(
            "ours",
            both(24, 27),
            label="region tokens",
            note="lambda | 0.5",
            parameters=1_250_000,
            gflops=0.25,
        ),
        method(
            "resnet50",
            both(12, 15),
            label="ResNet-50",
            paper=0.525,
            tables=everywhere,
            parameters=23_672_000,
            gflops=33.04,
        ),
        method(
            "alexnet",
            {("a", 0): 6, ("a", 1): "OOM\nlong trace", ("b", 0): "OOM", ("b", 1): "OOM"},
            label="AlexNet",
            paper=0.2292,
        ),
        method("dcl", {("a", 0): "no\n", ("b", 0): ""}, label="DCL", paper=0.5375),
        method("contour", both(18, 18), **guided, regions=("contour",), paper=0.606),
        method("vein", both(15, 18), **guided, regions=("vein",), paper=0.5833),
        method("recipe", both(13, 14), label="ResNet-50, recipe of mask_guided", tables=frozenset({"controls"})),
        energy={"ResNet-50": (0.4, 0.2, 30), "nowhere": (float("nan"), float("nan"), 0)},
        facts={"Data": "made <up>"},
    )

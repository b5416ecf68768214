"""The parts of a call: tests, bench and sharing here, experiment and trainings in files of their own.

Each writes its result also when it fails.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from cluster.gpu.call import Call
from cluster.gpu.collect import history
from cluster.gpu.commands import State
from cluster.gpu.paths import WORK, write_json

PYTEST = (
    *[
        "-m",
        "pytest",
        "tests/gpu",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "cluster.gpu.pytest_results",
        "-o",
        "addopts=",
        "--timeout",
        "120",
    ],
)
# Most of their time goes into Ray, imports and references on the CPU. Tests of memory limit their own process and not
# the card. A process takes one test after another in the order of tests/gpu/conftest.py, the long ones first.
IN_PARALLEL = ("-n", "8", "--dist", "load", "--maxschedchunk", "1")
THREADS = "2"  # of each process: more threads than cores would slow each other
BENCH = ("-m", "jobs.bench")
BENCH_GPU = ("--device", "gpu")
BENCH_DRY = ("--device", "cpu", "--photographs", "16", "--rounds", "3", "--sides", "64", "--batches", "4")
BENCH_LINES = 80  # lines of bench.md in the summary


@dataclass(frozen=True)
class Part:
    """How a part ended.  headline: its figures, a line each.  tail: the last lines of its output, if it failed."""

    name: str
    state: State
    seconds: float
    headline: list[str] = field(default_factory=list)
    tail: tuple[str, ...] = ()


def run_tests(call: Call, limit: float) -> Part:
    """Runs tests/gpu; tests.json has every result."""
    results = WORK / "tests.jsonl"
    results.unlink(missing_ok=True)
    env = {"UFGVC_GPU_RESULTS": str(results)} | (
        {"UFGVC_GPU_TESTS": "cpu"} if call.dry else {"OMP_NUM_THREADS": THREADS}
    )
    outcome = call.run("tests", PYTEST if call.dry else (*PYTEST, *IN_PARALLEL), limit, **env)
    rows = history(results)
    counts = Counter(str(row["outcome"]) for row in rows)
    report: dict[str, Any] = {
        "state": outcome.state,
        "seconds": round(outcome.seconds, 1),
        "counts": dict(counts),
        "tests": rows,
    }
    write_json(call.out / "tests.json", report)
    wrong = [row for row in report["tests"] if row["outcome"] in ("failed", "error")]
    headline = [", ".join(f"{number} {outcome}" for outcome, number in sorted(counts.items())) or "no test ran"]
    headline += [f"{row['outcome']}: {row['name']}: {what_failed(row['message'])}" for row in wrong[:15]]
    return Part("tests", outcome.state, outcome.seconds, headline, () if outcome.state == "ok" else outcome.tail)


def what_failed(message: str) -> str:
    """The line of a failure with the exception: pytest marks it with an E."""
    lines = message.splitlines()
    return next((line[1:].strip() for line in lines if line.startswith("E ")), lines[-1] if lines else "")[:160]


def run_bench(call: Call, limit: float) -> Part:
    """Runs `ufgvc bench`; bench.json and bench.md are its files."""
    folder = WORK / "bench"
    shutil.rmtree(folder, ignore_errors=True)
    parts = ("--parts", *call.bench_parts) if call.bench_parts else ()
    flags = (*parts, *(BENCH_DRY if call.dry else BENCH_GPU), *call.bench_flags)
    outcome = call.run("bench", (*BENCH, "--out", str(folder), *flags), limit)
    state, missing = outcome.state, []
    for name in ("bench.json", "bench.md"):
        if (folder / name).is_file():
            shutil.copy(folder / name, call.out / name)
        else:
            missing.append(name)
    if state == "ok" and missing:
        state = "failed"
    headline = [f"it did not write {' and '.join(missing)}"] if missing else []
    if (folder / "bench.md").is_file():
        headline += (folder / "bench.md").read_text().splitlines()[:BENCH_LINES]
    return Part("bench", state, outcome.seconds, headline, () if state == "ok" else outcome.tail)


def run_sharing(call: Call, limit: float) -> Part:
    """Runs all numbers of processes, for `limit` seconds at most; sharing.json has the rates."""
    found = WORK / "sharing.jsonl"
    found.unlink(missing_ok=True)
    device = "cpu" if call.dry else "cuda"
    outcome = call.run("sharing", ("-m", "cluster.gpu.sharing", "--device", device, "--out", str(found)), limit)
    rows = [json.loads(line) for line in found.read_text().splitlines()] if found.exists() else []
    write_json(call.out / "sharing.json", {"state": outcome.state, "rows": rows})
    tail = () if outcome.state == "ok" else outcome.tail
    return Part("sharing", outcome.state, outcome.seconds, [_describe_sharing(row, rows) for row in rows], tail)


def _describe_sharing(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """A line for the summary: the rate, and its ratio to that of a single process."""
    alone = next(each for each in rows if each["cuda_graphs"] == row["cuda_graphs"] and each["processes"] == 1)
    ratio = row["images_per_second"] / alone["images_per_second"]
    graphs = ", CUDA graphs" if row["cuda_graphs"] else ""
    return f"{row['processes']} at once{graphs}: {row['images_per_second']:.0f} images/s together, {ratio:.2f} of one"

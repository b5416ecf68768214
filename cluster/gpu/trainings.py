"""The trainings: `ufgvc benchmark` of all methods on real leaves.

trainings.json is rewritten while they run and after each; trainings.md has the tables; runs.tar.gz the scores of every
leaf.
"""

from __future__ import annotations

import shutil
import tarfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.gpu.call import Call
from cluster.gpu.collect import by_row, collect_trainings, reports, table
from cluster.gpu.commands import Command, Outcome, State, watch
from cluster.gpu.parts import Part
from cluster.gpu.paths import DATA, WEIGHTS, WORK, write_json


@dataclass(frozen=True)
class Benchmark:
    """config: in jobs/configs.  data: name of the data set.  flags: of the command."""

    name: str
    config: str
    data: str
    flags: tuple[str, ...] = ()


CROSSVAL = ("--protocol", "crossval")  # every leaf is scored: 104 of grape29 in place of 48, 161 of grape5 for 121
GREY_ROWS = ("resnet50", "mask_guided", "leaf_traits", "linear_probe", "part_probe")
# They run concurrently: while one starts (imports, Ray, decoding) it leaves the GPU idle. Together they run about as
# many trainings at a time as the host has cores, since each training keeps one busy.
BENCHMARKS = {
    each.name: each
    for each in (
        Benchmark("grape29", "gpu-real", "grape29", (*CROSSVAL, "--max-concurrent-trials", "9")),
        Benchmark("grape5", "gpu-real", "grape5", ("--max-concurrent-trials", "5")),
        Benchmark(
            "grape29-grey",
            "gpu-real",
            "grape29-grey",
            (*CROSSVAL, "--max-concurrent-trials", "2", "--seeds-of", "--methods", *GREY_ROWS),
        ),
        # Three seeds of every row; on its own, so with all cores.
        Benchmark(
            "grape5-crossval",
            "gpu-real",
            "grape5",
            (*CROSSVAL, "--max-concurrent-trials", "16", "--seeds-of", "--seeds", "3"),
        ),
    )
}
DEFAULT_BENCHMARKS = ("grape29", "grape5", "grape29-grey")
ON_GPU = ("--device", "gpu")  # an error without a GPU: on CPUs it would take hours
DRY = (
    *[
        "--epochs",
        "2",
        "--seeds",
        "1",
        "--seeds-of",
        "--resize",
        "72",
        "--crop",
        "64",
        "--batch-size",
        "8",
        "--max-concurrent-trials",
        "2",
        "--ray.cpus",
        "4",
    ],
)
# In a dry run on a machine without the real leaves.
TINY = (
    *[
        "--preset",
        "cotton80",
        "--cultivars",
        "4",
        "--train-per-cultivar",
        "4",
        "--test-per-cultivar",
        "2",
        "--size",
        "96",
    ],
)


def folder(call: Call) -> Path:
    """The folder of runs and synthetic leaves; a dry run has its own, so that its files are not taken for real ones."""
    return WORK / ("dry" if call.dry else "full")


def runs(call: Call, what: str) -> Path:
    """The runs folder of a group of trainings."""
    return folder(call) / "runs" / what


def run_trainings(call: Call, limit: float) -> Part:
    """Runs the call's benchmarks concurrently, for `limit` seconds at most."""
    started, deadline = time.monotonic(), call.until(limit)
    chosen = [BENCHMARKS[name] for name in call.benchmarks]
    if call.dry:
        shutil.rmtree(folder(call), ignore_errors=True)
    maker = Maker(call, deadline, chosen)
    maker.start()
    outcomes: list[Outcome] = []
    try:
        maker.wait_for([each.data for each in chosen])
        commands = []
        for benchmark in chosen:
            if has_masks(maker.path(benchmark.data)):
                commands.append(start(call, benchmark, maker))
            else:
                outcomes.append(Outcome(benchmark.name, "left out", 0.0, (f"there is no {benchmark.data}",)))
        outcomes.extend(watch(commands, deadline, tick=lambda: write(call, outcomes)))
    finally:
        maker.stop()
        write(call, outcomes)
        if (folder(call) / "runs").is_dir():
            pack_runs(folder(call) / "runs", call.out / "runs.tar.gz")
    return summarize(call, [*maker.failed, *outcomes], time.monotonic() - started)


def has_masks(data: Path) -> bool:
    """Whether box masks are stored."""
    return (data / "masks" / "box" / "manifest.json").is_file()


def start(call: Call, benchmark: Benchmark, maker: Maker) -> Command:
    """Starts `ufgvc benchmark`."""
    init = str(DATA / WEIGHTS) if (DATA / WEIGHTS).is_file() else "none"
    flags = ["--config", f"jobs/configs/{benchmark.config}.yaml", "--data", str(maker.path(benchmark.data))]
    flags += ["--runs", str(runs(call, benchmark.name)), "--init", init, *benchmark.flags]
    flags += DRY if call.dry else ON_GPU
    return call.start(benchmark.name, "-m", "ufgvc.cli", "benchmark", *flags)


class Maker(threading.Thread):
    """Makes tiny synthetic data sets, one after the other, for a dry run without the real ones.  failed: commands that
    failed.
    """

    def __init__(self, call: Call, deadline: float, benchmarks: Sequence[Benchmark]) -> None:
        super().__init__(daemon=True)
        self.call, self.deadline = call, deadline
        names = dict.fromkeys(each.data for each in benchmarks)
        self.failed: list[Outcome] = []
        self.command: Command | None = None
        self.making = {name: threading.Event() for name in names if call.dry and not (DATA / name).is_dir()}

    def path(self, data: str) -> Path:
        """The folder of a data set."""
        return (folder(self.call) / "data" if data in self.making else DATA) / data

    def wait_for(self, names: Sequence[str]) -> None:
        """Returns when these data sets are made, or at the deadline."""
        for name in names:
            if name in self.making:
                self.making[name].wait(max(0.0, self.deadline - time.monotonic()))

    def stop(self) -> None:
        """Ends the command that runs, and the thread."""
        self.deadline = 0.0
        if self.command is not None:
            self.command.end()
        self.join()

    def run(self) -> None:
        """Makes the data sets one after another (the body of the thread)."""
        for name, made in self.making.items():
            try:
                self.make(name)
            finally:
                made.set()

    def make(self, name: str) -> None:
        """Makes one data set with masks; an error goes to `failed`."""
        leaves, data = folder(self.call) / f"{name}-leaves", self.path(name)
        boxes = (
            "--box-source",
            "annotated",
            "--mask-kind",
            "box",
            "--runs",
            str(runs(self.call, "masks")),
            "--tracking.uri",
            "off",
        )
        commands = (
            ("synth", *TINY, "--out", str(leaves)),
            ("ingest", "--source", str(leaves), "--data", str(data), "--name", name),
            ("mask", "--data", str(data), *boxes),
        )
        if has_masks(data):
            return
        for command in commands:
            self.command = self.call.start(f"{command[0]} {name}", "-m", "ufgvc.cli", *command)
            outcome = watch([self.command], self.deadline)[0]
            if outcome.state != "ok":
                self.failed.append(outcome)
                return


def pack_runs(folder: Path, file: Path) -> None:
    """Archives the runs below a folder without weights, for comparisons of leaves that the tables do not have."""
    left_out = ("model", "checkpoints", "tune", "_cache")
    with tarfile.open(file, "w:gz") as archive:
        archive.add(folder, "runs", filter=lambda each: None if Path(each.name).name in left_out else each)


def write(call: Call, outcomes: Sequence[Outcome]) -> None:
    """Writes trainings.json and trainings.md with what is known now."""
    listed: list[dict[str, Any]] = []
    text = [
        "# Trainings",
        "",
        "Several trainings share the machine: images/s is the rate of each while the others ran.",
        "",
    ]
    states = {outcome.name: outcome for outcome in outcomes}
    for each in (BENCHMARKS[name] for name in call.benchmarks):
        outcome, found = states.get(each.name), collect_trainings(runs(call, each.name))
        state = outcome.state if outcome else "running" if runs(call, each.name).is_dir() else "not begun"
        files = reports(runs(call, each.name))
        seconds = round(outcome.seconds, 1) if outcome else None
        listed.append({"name": each.name, "state": state, "seconds": seconds, "trainings": found, "reports": files})
        took = f", {outcome.seconds:.0f} s" if outcome else ""
        text += [f"## {each.name} (jobs/configs/{each.config}.yaml): {state}{took}", "", *table(by_row(found)), ""]
        for name, content in files.items():
            text += [f"### {name[:-3]}", "", content] if name.endswith(".md") else []
    write_json(call.out / "trainings.json", listed)
    (call.out / "trainings.md").write_text("\n".join(text) + "\n", encoding="utf-8")


def summarize(call: Call, outcomes: Sequence[Outcome], seconds: float) -> Part:
    """The result of the part: its state is that of the worst benchmark. One without a data set is listed and is no
    failure.
    """
    lost = 0
    headline: list[str] = []
    rows: list[dict[str, Any]] = []
    for outcome in outcomes:
        found = collect_trainings(runs(call, outcome.name))
        bad = sum(cell["state"] == "failed" for cell in found)
        lost += bad
        done = sum(cell["state"] == "done" for cell in found)
        detail = f", {done} of {len(found)} started trainings are done" + (f", {bad} FAILED" if bad else "")
        detail = f" ({outcome.tail[-1]})" if outcome.state == "left out" else detail
        headline.append(f"{outcome.name}: {outcome.state}, {outcome.seconds:.0f} s{detail}")
        rows += by_row(found)
    states = {outcome.state for outcome in outcomes}
    worst: State = "failed" if "failed" in states else "cut off" if "cut off" in states else "ok"
    tail = next((outcome.tail for outcome in outcomes if outcome.state == worst != "ok"), ())
    return Part("trainings", "failed" if lost else worst, seconds, [*headline, *table(rows)], tail)

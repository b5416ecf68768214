"""The trainings, most wanted first: the product's own `benchmark` on real leaves, on synthetic cotton, and of all methods.

trainings.json is written anew while they run and after each; trainings.md has the tables.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.gpu.call import Call
from cluster.gpu.child import Child, Ended, State, watch
from cluster.gpu.collect import by_row, cells, reports, table
from cluster.gpu.parts import Part
from cluster.gpu.places import DATA, WEIGHTS, WORK, write_json

FEWEST = 40.0  # seconds under which no further benchmark is begun


@dataclass(frozen=True)
class Benchmark:
    """config: in jobs/configs.  data: name of the data set.  init: first weights, `lite0` for those that were packed."""

    name: str
    config: str
    data: str
    init: str = "none"
    dry: tuple[str, ...] = ()


# Benchmarks of a stage run side by side: the start of each (imports, Ray, decoding) leaves the GPU idle.
STAGES = (
    (Benchmark("grape5", "gpu-grapes", "grape5", "lite0"), Benchmark("grape29", "gpu-grapes", "grape29", "lite0")),
    (Benchmark("cotton80", "gpu-cotton80", "cotton80", dry=("--backbones", "resnet50=resnet18")),),
    (Benchmark("methods", "gpu-methods", "grape5", dry=("--methods", "dcl", "--backbones", "resnet50=resnet18")),),
)
ON_GPU = ("--device", "gpu")  # without one it would train on the CPU, and end in hours
DRY = (
    "--epochs",
    "2",
    "--seeds",
    "1",
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
)
# Made there, at 0.15 to 0.2 s of a core each: they would be 23 MiB of what may travel.
SYNTHETIC = {"cotton80": ("--preset", "cotton80")}  # at its full size: 80 cultivars, 3 leaves to learn and 3 to test
TINY = (
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
)


def folder(call: Call) -> Path:
    """Where runs and drawn leaves lie. What a dry run made must never be taken for the real ones."""
    return WORK / ("dry" if call.dry else "full")


def runs(call: Call, what: str) -> Path:
    return folder(call) / "runs" / what


def run_trainings(call: Call, limit: float, stages: Sequence[Sequence[Benchmark]] = STAGES) -> Part:
    started, deadline = time.monotonic(), call.until(limit)
    if call.dry:
        shutil.rmtree(folder(call), ignore_errors=True)
    maker = Maker(call, deadline, stages)
    maker.start()
    ended: list[Ended] = []
    try:
        for stage in stages:
            maker.wait_for([each.data for each in stage])
            there = [each for each in stage if call.dry or deadline - time.monotonic() > FEWEST]
            ready = [each for each in there if (maker.place(each.data) / "masks" / "box" / "manifest.json").is_file()]
            left = [each for each in stage if each not in ready]
            ended.extend(
                Ended(
                    each.name,
                    "left out",
                    0.0,
                    ("no time was left" if each not in there else f"there is no {each.data}",),
                )
                for each in left
            )
            children = [start(call, each, maker) for each in ready]
            ended.extend(watch(children, deadline, tick=lambda: write(call, ended, stages)))
            write(call, ended, stages)
    finally:
        maker.stop()
        write(call, ended, stages)
    return summed_up(call, [*maker.failed, *ended], time.monotonic() - started)


def start(call: Call, what: Benchmark, maker: Maker) -> Child:
    init = str(DATA / WEIGHTS) if what.init == "lite0" and (DATA / WEIGHTS).is_file() else "none"
    command = [
        "-m",
        "ufgvc.cli",
        "benchmark",
        "--config",
        f"jobs/configs/{what.config}.yaml",
        "--data",
        str(maker.place(what.data)),
    ]
    command += ["--runs", str(runs(call, what.name)), "--init", init, *((*DRY, *what.dry) if call.dry else ON_GPU)]
    return call.child(what.name, *command)


class Maker(threading.Thread):
    """Makes the data sets that did not travel while the first trainings run, one after the other."""

    def __init__(self, call: Call, deadline: float, stages: Sequence[Sequence[Benchmark]]) -> None:
        super().__init__(daemon=True)
        self.call, self.deadline = call, deadline
        names = dict.fromkeys(each.data for stage in stages for each in stage)
        # In a dry run tiny leaves stand in for those that are not on this machine.
        self.failed: list[Ended] = []
        self.child: Child | None = None
        self.making = {
            name: threading.Event() for name in names if name in SYNTHETIC or (call.dry and not (DATA / name).is_dir())
        }

    def place(self, data: str) -> Path:
        return (folder(self.call) / "data" if data in self.making else DATA) / data

    def wait_for(self, names: Sequence[str]) -> None:
        for name in names:
            if name in self.making:
                self.making[name].wait(max(0.0, self.deadline - time.monotonic()))

    def stop(self) -> None:
        """Ends what is still being made: nobody waits for it any more."""
        self.deadline = 0.0
        if self.child is not None:
            self.child.end()
        self.join()

    def run(self) -> None:
        for name, made in self.making.items():
            try:
                self.make(name)
            finally:
                made.set()

    def make(self, name: str) -> None:
        leaves, data = folder(self.call) / f"{name}-leaves", self.place(name)
        drawn = TINY if self.call.dry else SYNTHETIC[name]
        commands = (
            ("synth", *drawn, "--out", str(leaves)),
            ("ingest", "--source", str(leaves), "--data", str(data), "--name", name),
            (
                "mask",
                "--data",
                str(data),
                "--boxes",
                "annotated",
                "--kind",
                "box",
                "--runs",
                str(runs(self.call, "masks")),
                "--tracking.uri",
                "off",
            ),
        )
        if (data / "masks" / "box" / "manifest.json").is_file():
            return
        for command in commands:
            self.child = self.call.child(f"{command[0]} {name}", "-m", "ufgvc.cli", *command)
            ended = watch([self.child], self.deadline)[0]
            if ended.state != "ok":
                self.failed.append(ended)
                return


def write(call: Call, ended: Sequence[Ended], stages: Sequence[Sequence[Benchmark]]) -> None:
    """trainings.json and trainings.md of what is there by now."""
    listed, text = (
        [],
        ["# Trainings", "", "Several trainings share the machine: images/s is what each got beside the others.", ""],
    )
    states = {end.name: end for end in ended}
    for each in (each for stage in stages for each in stage):
        end, found = states.get(each.name), cells(runs(call, each.name))
        state = end.state if end else "running" if runs(call, each.name).is_dir() else "not begun"
        files = reports(runs(call, each.name))
        seconds = round(end.seconds, 1) if end else None
        listed.append({"name": each.name, "state": state, "seconds": seconds, "trainings": found, "reports": files})
        text += [
            f"## {each.name} (jobs/configs/{each.config}.yaml): {state}" + (f", {end.seconds:.0f} s" if end else ""),
            "",
        ]
        text += [*table(by_row(found)), ""]
        text += [
            part
            for name, content in files.items()
            if name.endswith(".md")
            for part in (f"### {name[:-3]}", "", content)
        ]
    write_json(call.out / "trainings.json", listed)
    (call.out / "trainings.md").write_text("\n".join(text) + "\n", encoding="utf-8")


def summed_up(call: Call, ended: Sequence[Ended], seconds: float) -> Part:
    """The part's state is that of the worst benchmark; one that a missing data set left out is named and is no failure."""
    lost = 0
    headline: list[str] = []
    rows: list[dict[str, Any]] = []
    for end in ended:
        found = cells(runs(call, end.name))
        bad = sum(cell["state"] == "failed" for cell in found)
        lost += bad
        done = sum(cell["state"] == "done" for cell in found)
        reason = (
            f" ({end.tail[-1]})" if end.state == "left out" else f", {done} of {len(found)} trainings begun are done"
        )
        headline.append(f"{end.name}: {end.state}, {end.seconds:.0f} s{reason}" + (f", {bad} FAILED" if bad else ""))
        rows += by_row(found)
    worst: State = next((state for state in ("failed", "cut off") if any(end.state == state for end in ended)), "ok")  # type: ignore[assignment]
    wrong = next((end.tail for end in ended if end.state == worst != "ok"), ())
    return Part("trainings", "failed" if lost else worst, seconds, [*headline, *table(rows)], wrong)

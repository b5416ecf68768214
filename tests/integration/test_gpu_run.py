"""The runner of the call on a GPU host (cluster/gpu): parts that fail or take too long, and what is collected."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.gpu import collect, commands, run
from cluster.gpu.commands import Command, Log, watch
from cluster.gpu.parts import Part
from tests.integration.gpu_call import ROOT, call, processes


@pytest.fixture
def begin(tmp_path: Path) -> Callable[..., Command]:
    def start(name: str, code: str) -> Command:
        return Command(name, [sys.executable, "-c", code], os.environ, Log(tmp_path / "log.txt"), tmp_path)

    return start


def test_commands_side_by_side_end_each_in_its_way(
    begin: Callable[..., Command], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "GRACE", 3.0)
    ticks: list[float] = []
    children = [
        begin("fine", "print('figures')"),
        begin("wrong", "print('about to fail'); raise SystemExit(3)"),
        begin("long", "import time; print('begun', flush=True); time.sleep(60)"),
        begin(
            "deaf", "import signal, time; signal.signal(15, signal.SIG_IGN); print('begun', flush=True); time.sleep(60)"
        ),
    ]
    started = time.monotonic()
    ended = {end.name: end for end in watch(children, started + 3, lambda: ticks.append(time.monotonic()), every=0.5)}
    assert time.monotonic() - started < 20
    assert {name: end.state for name, end in ended.items()} == {
        "fine": "ok", "wrong": "failed", "long": "cut off", "deaf": "cut off",
    }  # fmt: skip
    assert ended["wrong"].tail == ("about to fail",)
    assert ended["long"].tail == ended["deaf"].tail == ("begun",)
    assert len(ticks) >= 3
    assert all(child.process.returncode is not None for child in children)
    log = (tmp_path / "log.txt").read_text()
    assert "fine | figures" in log
    assert "wrong | about to fail" in log


def test_the_summary_fits_into_a_reply_and_ends_with_the_table() -> None:
    about = {
        "commit": "abc",
        "dry": False,
        "device": "a GPU",
        "memory_gib": 80,
        "cores": 16,
        "python": "3.12",
        "torch": "2",
        "cuda": "13",
    }
    parts = [
        Part("tests", "ok", 10.0, ["31 passed"]),
        Part("bench", "failed", 20.0, ["x" * 200 for _ in range(100)], ("Traceback", "KeyError: 'step'")),
    ]
    text = run.summary(about, parts, ["tests", "bench", "trainings"], 31.0)
    assert len(text) <= run.ROOM
    assert [line.split()[:2] for line in text.splitlines()[-4:]] == [
        ["tests", "ok"], ["bench", "failed"], ["trainings", "not"], ["together", "31"],
    ]  # fmt: skip
    short = run.summary(about, parts[1:], ["bench"], 20.0, room=50_000)
    assert "KeyError: 'step'" in short
    assert "commit abc" in short


FAKE_TESTS = """
import os
import pytest
def test_good(): assert os.environ["UFGVC_GPU_TESTS"] == "cpu"
def test_bad(): assert 1 == 2, "one is not two"
@pytest.mark.skip(reason="no need")
def test_left(): pass
"""


# Leaves a process in a session of its own, and is deaf to the request to stop.
FAKE_BENCH = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sleeper = [sys.executable, "-c", "import time; time.sleep(300)", "left-by-" + sys.argv[2]]
subprocess.Popen(sleeper, start_new_session=True)
print("begun", flush=True)
time.sleep(300)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The runner with tests and speeds of its own."""
    there = tmp_path / "project"
    shutil.copytree(ROOT / "cluster" / "gpu", there / "cluster" / "gpu", ignore=shutil.ignore_patterns("__pycache__"))
    for file, content in {
        "cluster/__init__.py": "",
        "jobs/__init__.py": "",
        "jobs/bench.py": FAKE_BENCH,
        "tests/gpu/test_fake.py": FAKE_TESTS,
    }.items():
        (there / file).parent.mkdir(parents=True, exist_ok=True)
        (there / file).write_text(content)
    return there


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_part_that_fails_and_one_that_is_cut_off_do_not_stop_the_others(project: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    code, said, out = call(
        project, tmp_path, "--dry", "--parts", "bench", "tests", "--bench-seconds", "6", "--commit", "abc123"
    )
    assert code == 1, said
    assert time.monotonic() - started < 120
    summary = json.loads((out / "summary.json").read_text())
    assert [(part["name"], part["state"]) for part in summary["parts"]] == [("bench", "cut off"), ("tests", "failed")]
    assert summary["commit"] == "abc123"
    assert summary["parts"][0]["tail"] == ["begun"]
    assert processes(f"left-by-{project}") == []
    tests = json.loads((out / "tests.json").read_text())
    assert tests["counts"] == {"passed": 1, "failed": 1, "skipped": 1}
    assert "one is not two" in next(row["message"] for row in tests["tests"] if row["outcome"] == "failed")
    assert "1 failed, 1 passed, 1 skipped" in said
    assert "failed: tests/gpu/test_fake.py::test_bad: AssertionError: one is not two" in said
    assert {path.name for path in out.iterdir()} == {"tests.json", "log.txt", "summary.json", "summary.txt"}
    assert said.rstrip().splitlines()[-1].startswith("together")


@pytest.mark.timeout(120)
def test_without_a_gpu_and_without_wheels_it_says_so(project: Path, tmp_path: Path) -> None:
    code, said, _ = call(project, tmp_path, "--parts")
    assert (code, "there is no CUDA device here" in said) == (2, True)
    assert "Traceback" not in said
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    code, said, _ = call(project, tmp_path, "--parts", python=str(bare / "bin" / "python"))
    assert (code, "carry .gpu/wheels" in said) == (2, True)
    assert "Traceback" not in said


def cell(runs: Path, row: str, seed: int, **files: Any) -> None:
    folder = runs / "leaves" / "method" / f"{row}-{seed}".replace(":", "-")
    folder.mkdir(parents=True)
    (folder / "job.json").write_text(
        json.dumps({"variant": row, "data": "leaves", "seed": seed, "purpose": "final", "lr_factor": 1.0})
    )
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("__", ".")).write_text(text)


def test_a_seed_counts_when_all_its_folds_are_done() -> None:
    def fold(seed: int, number: int, correct: int) -> dict[str, int]:
        return {"seed": seed, "fold": number, "folds": 2, "correct": correct, "leaves": 10}

    assert collect.sum_folds([fold(1, 0, 7), fold(0, 1, 5), fold(0, 0, 6)]) == [(11, 20)]
    assert collect.sum_folds([{"seed": 0, "correct": 4, "leaves": 5}, {"seed": 1, "correct": 3, "leaves": 5}]) == [
        (4, 5),
        (3, 5),
    ]


def test_what_is_collected_of_trainings_in_every_state(tmp_path: Path) -> None:
    epoch = {"epoch": 1.0, "train_accuracy": 0.5, "images_per_second": 100.0, "data_wait": 0.25, "seconds": 2.0}
    lines = "".join(
        json.dumps(epoch | {"epoch": float(number), "images_per_second": 100.0 * number}) + "\n" for number in (1, 2, 3)
    )
    result = {"purpose": "final", "seconds": 6.0, "images_per_second": 200.0, "train_accuracy": 1.0, "machine": "a GPU"}
    cell(tmp_path, "plain", 0, result__json=result | {"correct": 8, "leaves": 10}, metrics__jsonl=lines)
    cell(tmp_path, "plain", 1, result__json=result | {"correct": 6, "leaves": 10}, metrics__jsonl=lines)
    cell(tmp_path, "guided", 0, failed__json={"reason": "out of memory", "traceback": "a\nb"})
    cell(tmp_path, "guided:none", 0, metrics__jsonl=lines + '{"epoch": 4.0, "tr')  # cut off while it wrote
    cell(tmp_path, "late", 0, result__json='{"purpose"', metrics__jsonl="")
    found = {(each["row"], each["seed"]): each for each in collect.collect_trainings(tmp_path)}
    assert [found[key]["state"] for key in (("plain", 0), ("guided", 0), ("guided:none", 0), ("late", 0))] == [
        "done", "failed", "not finished", "not finished",
    ]  # fmt: skip
    assert found["plain", 0]["data_wait"] == 0.25
    assert (found["guided:none", 0]["epochs"], found["guided:none", 0]["images_per_second"]) == (3, 200.0)
    text = "\n".join(collect.table(collect.by_row(found.values())))
    assert "| leaves | plain | 8, 6 | 10 | 70.0 % | 2 of 2 | 200 | 6 |" in text
    assert "| leaves | guided | - | - | - | 0 of 1: out of memory | - | 0 |" in text
    assert "| leaves | guided:none | - | - | - | 0 of 1 | 200 | 6 |" in text
    (tmp_path / "leaves" / "benchmark" / "equal-1").mkdir(parents=True)
    (tmp_path / "leaves" / "benchmark" / "equal-1" / "table-II.md").write_text("a table")
    assert collect.reports(tmp_path) == {"table-II.md": "a table"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_trainings_that_share_a_device_are_measured_together(project: Path, tmp_path: Path) -> None:
    code, said, out = call(project, tmp_path, "--dry", "--parts", "sharing")
    assert code == 0, said
    rows = json.loads((out / "sharing.json").read_text())["rows"]
    assert [row["processes"] for row in rows] == [1, 2, 4]
    assert all(row["images_per_second"] > 0 for row in rows)
    ratio = rows[1]["images_per_second"] / rows[0]["images_per_second"]
    assert f"2 at once: {rows[1]['images_per_second']:.0f} images/s together, {ratio:.2f} of one" in said

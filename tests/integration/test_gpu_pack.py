"""The call on a GPU host (cluster/gpu): what its runner does when parts fail or take too long, and the whole of it on
a CPU.
"""

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

from cluster.gpu import collect, commands, pack, run, wheels
from cluster.gpu.commands import Command, Log, watch
from cluster.gpu.parts import Part
from cluster.gpu.paths import GpuCallError

ROOT = Path(__file__).resolve().parents[2]
# The packages of the host (its Python is 3.12), without those that travel.
HOST = (
    *(
        "torch==2.11.0",
        "torchvision==0.26.0",
        "timm",
        "safetensors",
        "numpy==2.5.*",
        "pandas",
        "pyarrow",
        "scipy",
        "scikit-learn",
    ),
    *(
        "scikit-image",
        "pillow",
        "opencv-python-headless",
        "matplotlib",
        "rich",
        "pyyaml",
        "filelock",
        "psutil",
        "onnx",
        "onnxruntime",
    ),
    *(
        "onnxscript",
        "pytest",
        "pytest-timeout",
        "pytest-xdist",
        "hypothesis",
        "jinja2",
        "requests",
        "fsspec",
        "aiohttp",
    ),
)
RESULTS = {
    "tests.json",
    "bench.json",
    "bench.md",
    "trainings.json",
    "trainings.md",
    "log.txt",
    "summary.json",
    "summary.txt",
}


@pytest.fixture
def begin(tmp_path: Path) -> Callable[..., Command]:
    def start(name: str, code: str) -> Command:
        return Command(name, [sys.executable, "-c", code], os.environ, Log(tmp_path / "log.txt"), tmp_path)

    return start


def processes(words: str) -> list[int]:
    """Processes whose command line holds these words."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                line = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if words in line:
                found.append(int(entry.name))
    return found


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


def test_a_pack_that_is_too_large_names_what_is(tmp_path: Path) -> None:
    folder = tmp_path / ".gpu" / "data"
    folder.mkdir(parents=True)
    (folder / "large.bin").write_bytes(bytes(3 << 20))
    (folder / "small.bin").write_bytes(bytes(1 << 20))
    assert pack.describe_size(folder, limit=4 << 20) == ".gpu/data: 4.0 MiB of at most 4"
    with pytest.raises(
        GpuCallError, match=r"4\.0 MiB, more than the 3 MiB .* largest: large\.bin 3\.0 MiB, small\.bin 1\.0 MiB"
    ):
        pack.describe_size(folder, limit=3 << 20)


def test_without_a_network_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setattr(pack, "WHEELS", tmp_path / "wheels")
    assert pack.main(["wheels"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("gpu-pack: pip could not fetch the wheels; is there a network? It said: ERROR")
    assert len(said.err.splitlines()) == 1


def test_wheels_are_fetched_again_only_when_they_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []

    def download(what: list[str], folder: Path, host: bool = True) -> None:
        fetched.extend(what)
        for name, _, version in (each.partition("==") for each in what):
            (folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl").write_bytes(b"x")

    monkeypatch.setattr(wheels, "download", download)
    monkeypatch.setattr(wheels, "slim", lambda wheel: None)
    assert wheels.fill(tmp_path / "wheels")
    assert len(fetched) == len(wheels.NEEDED)
    assert not wheels.fill(tmp_path / "wheels")
    next((tmp_path / "wheels").glob("ray-*.whl")).write_bytes(b"half")
    assert wheels.fill(tmp_path / "wheels")
    assert len(fetched) == 2 * len(wheels.NEEDED)


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


def call(
    project: Path, tmp_path: Path, *flags: str, python: str = sys.executable, within: float = 120
) -> tuple[int, str, Path]:
    """(exit code, what was said, folder of results) of the runner, with a home and a temporary folder that must be
    empty at the end.
    """
    home, temporary, out = tmp_path / "home", tmp_path / "t", tmp_path / "out"
    for folder in (home, temporary, out):
        folder.mkdir(exist_ok=True)
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env |= {"OUT": str(out), "HOME": str(home), "TMPDIR": str(temporary)}
    before = files(project)
    done = subprocess.run(
        [python, "-m", "cluster.gpu.run", *flags],
        cwd=project,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=within,
    )
    assert files(project) == before
    assert list(home.iterdir()) == []
    assert list(temporary.iterdir()) == []
    assert processes(str(project)) == []
    return done.returncode, done.stdout + done.stderr, out


def files(project: Path) -> set[str]:
    """All that lies in the project, but for .gpu, and the compiled modules of the runner itself."""
    found = {path.relative_to(project) for path in project.rglob("*")}
    return {str(path) for path in found if path.parts[0] != ".gpu" and "__pycache__" not in path.parts}


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


def python312() -> str | None:
    """A Python like the host's; a shim of pyenv may be there without starting."""
    candidates = [shutil.which("python3.12"), *sorted(Path.home().glob(".pyenv/versions/3.12.*/bin/python"))]
    for path in filter(None, candidates):
        if subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
            return str(path)
    return None


@pytest.fixture(scope="session")
def host() -> str:
    """Python of an environment that holds what the host holds.

    Kept: it takes minutes and gigabytes. UFGVC_GPU_VENV names another.
    """
    folder = Path(os.environ.get("UFGVC_GPU_VENV") or ROOT / ".venv" / "var" / "gpu-host")
    python = folder / "bin" / "python"
    made = folder / "made"
    if not made.is_file() and not os.environ.get("UFGVC_GPU_VENV"):
        base = python312()
        if base is None:
            pytest.skip("there is no Python 3.12 on PATH or of pyenv, and the GPU host has that one")
        subprocess.run([base, "-m", "venv", "--clear", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--no-cache-dir", *HOST], check=True)
        made.touch()
    return str(python)


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_the_whole_call_in_an_environment_like_the_hosts(host: str, tmp_path: Path) -> None:
    packed = subprocess.run(
        [sys.executable, "-m", "cluster.gpu.pack", "--product", sys.executable],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if "is there a network" in packed.stderr:
        pytest.skip(f"what travels could not be fetched: {packed.stderr.strip()}")
    assert packed.returncode == 0, packed.stderr
    project = tmp_path / "copy"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, project / name)
    for name in ("wheels", "data"):  # each travels in a call of its own
        shutil.copytree(ROOT / ".gpu" / name, project / ".gpu" / name)
        if name == "wheels":
            code, said, out = call(project, tmp_path, "--dry", "--parts", "tests", "bench", python=host, within=2100)
            assert code == 0, said
            shutil.rmtree(project / ".gpu" / "wheels")  # they are installed by now
    counts = json.loads((out / "tests.json").read_text())["counts"]
    assert counts.get("passed", 0) > 0
    assert "failed" not in counts
    assert "|" in (out / "bench.md").read_text()
    assert json.loads((out / "bench.json").read_text())
    code, said, out = call(project, tmp_path, "--dry", "--parts", "trainings", python=host, within=1500)
    assert code == 0, said
    assert {path.name for path in out.iterdir()} == RESULTS
    summary = {each["name"]: each for each in json.loads((out / "trainings.json").read_text())}
    assert {name: (each["state"], len(each["trainings"])) for name, each in summary.items()} == {
        "grape5": ("ok", 4), "grape29": ("ok", 4), "cotton80": ("ok", 2), "methods": ("ok", 1),
    }  # fmt: skip
    cells = [cell for each in summary.values() for cell in each["trainings"]]
    assert all(
        cell["state"] == "done" and cell["correct"] <= cell["leaves"] and cell["images_per_second"] > 0
        for cell in cells
    )
    assert "benchmark.csv" in summary["grape5"]["reports"]
    assert "### table-II" in (out / "trainings.md").read_text()
    assert len(said) < 12_000

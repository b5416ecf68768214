"""`ufgvc bench` as a person starts it: every part on tiny sizes, its files, and nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.command_line import ufgvc
from tests.factories import put
from ufgvc.bench.settings import GROWTH_STEPS

TINY = ["--photographs", "16", "--rounds", "3", "--backbones", "shufflenet_v2_x0_5", "--sides", "32", "--batches", "4"]


def bench(temporary: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """`python -m jobs.bench` with a temporary folder of its own."""
    temporary.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return subprocess.run(
        [sys.executable, "-m", "jobs.bench", "--device", "cpu", *TINY, *flags],
        capture_output=True,
        text=True,
        timeout=500,
        env=environment | {"TMPDIR": str(temporary)},
        check=False,
    )


@pytest.mark.slow
def test_all_parts_leave_their_tables_and_nothing_else(tmp_path: Path) -> None:
    done = bench(tmp_path / "tmp", "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bench.json", "bench.md"]
    assert not [path.name for path in (tmp_path / "tmp").iterdir() if path.name.startswith("ufgvc")]
    found = json.loads((tmp_path / "out" / "bench.json").read_text())
    rows = {row["name"]: row for table in found["measured"].values() for row in table}
    for name in (
        "ufgvc",
        "Ray Data",
        "ufgvc, host cache, batch 64",
        "fed by the loader",
        "evaluate: reading and scoring, one process",
    ):
        assert rows[name]["ratio"]["median"] > 0, name
        assert rows[name]["baseline"], name
    for phase in ("setup", "workers", "network", "cache", "first batch", "first step"):
        assert rows[f"to the first step: {phase}"]["value"]["median"] > 0, phase
    total = rows["from the command to the first step"]["value"]["median"]
    phases = sum(row["value"]["median"] for name, row in rows.items() if name.startswith("to the first step"))
    assert phases == pytest.approx(total)
    assert [step["case"]["method"] for step in found["steps"]] == ["resnet50", "mask_guided"]
    assert all(step["share"]["median"] > 0 for step in found["steps"])
    assert set(found["matrix_rates"]) == {"fp32", "bf16"}
    assert found["machine"]["cores"] >= 1
    markdown = (tmp_path / "out" / "bench.md").read_text()
    for title in ("Reading", "Cached", "Steps fed by the loader", "Training step", "What this machine would need"):
        assert f"## {title}" in markdown
        assert title in done.stdout


@pytest.fixture
def threads() -> Iterator[None]:
    """As many threads afterwards as before: `bench` takes them all."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_own_photographs_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_local: None, threads: None
) -> None:
    for k in range(18):
        put(tmp_path / "leaves" / f"{k}.png")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    flags = ("--out", tmp_path / "out", "--source", tmp_path / "leaves", "--parts", "reading", "step")
    done = ufgvc("bench", "--device", "cpu", *TINY, *flags)
    assert done.code == 0, done.err[-3000:]
    found = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert list(found["measured"]) == ["Evaluation of a batch", "Reading: decode, square to 512 px, both masks"]
    assert [step["case"]["method"] for step in found["steps"]] == ["resnet50", "mask_guided"]
    assert "The user's photographs" in done.out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bench.json", "bench.md"]
    assert not [path.name for path in (tmp_path / "tmp").iterdir() if path.name.startswith("ufgvc")]


@pytest.mark.slow
def test_growth_is_measured_and_drawn(tmp_path: Path) -> None:
    done = bench(tmp_path / "tmp", "--out", str(tmp_path / "out"), "--parts", "step", "--growth", "--growth-rows", "16")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert [one["step"] for one in found["growth"]] == list(GROWTH_STEPS)
    assert {tuple(one["rows"]) for one in found["growth"]} == {(16, 160, 1600), (12, 120, 1200)}
    assert all(value > 0 for one in found["growth"] for value in one["seconds"] + one["cpu"] + one["memory"])
    assert (tmp_path / "out" / "growth.png").read_bytes().startswith(b"\x89PNG")

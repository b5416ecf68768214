"""The pipeline: killed and resumed, and with changed settings."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.command_line import ufgvc
from tests.processes import processes_reading

SETTINGS = {
    "name": "tiny",
    "synth": {"preset": "cotton80", "cultivars": 3, "train_per_cultivar": 4, "test_per_cultivar": 2, "size": 96},
    "detect": {"num_annotated": 6, "init": "none", "image_size": 64, "epochs": 1, "batch_size": 4},
    "mask": {"box_source": "annotated_else_detected", "max_actors": 1},
    "method": "mask_guided",
    "options": {"backbone": "shufflenet_v2_x0_5"},
    "train": {"init": "none", "epochs": 4, "batch_size": 6, "resize": 40, "crop": 32, "checkpoint_seconds": 0},
    "evaluate": {"cam_leaves": 2, "region_leaves": 2},
}


def arguments(folder: Path, *more: str) -> list[str]:
    places = ["--source", str(folder / "leaves"), "--data", str(folder / "data"), "--runs", str(folder / "runs")]
    return ["pipeline", "--config", str(folder / "tiny.yaml"), *places, *more]


def finished(folder: Path, *more: str) -> str:
    done = ufgvc(*arguments(folder, *more))
    assert done.code == 0, done.text
    return done.out


@pytest.fixture
def folder(tmp_path: Path, ray_local: None) -> Path:
    """With leaves/ and tiny.yaml, the settings of all commands."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(SETTINGS))
    assert ufgvc("synth", "--config", tmp_path / "tiny.yaml", "--out", tmp_path / "leaves").code == 0
    return tmp_path


def test_a_killed_pipeline_resumes(folder: Path, ray_head: dict[str, str]) -> None:
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ufgvc.cli", *arguments(folder)],
            env={**os.environ, **ray_head},
            stdout=log,
            stderr=log,
            cwd=folder,
            start_new_session=True,
        )
    deadline = time.monotonic() + 240
    while not list((folder / "runs").glob("tiny/mask_guided/*/progress.json")):
        assert process.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait(30)
    assert not list((folder / "runs").glob("tiny/mask_guided/*/model/model.json")), "it was killed too late"
    deadline = time.monotonic() + 60
    while processes_reading(folder / "runs" / "_cache", "RayTrainWorker"):
        assert time.monotonic() < deadline, "the workers of the killed driver have not ended"
        time.sleep(0.1)

    out = finished(folder)
    assert "== ingest (found, not done again)" in out
    assert "== detect (found, not done again)" in out
    assert "== mask (found, not done again)" in out
    assert "== train (found" not in out
    (metrics,) = (folder / "runs").glob("tiny/mask_guided/*/metrics.jsonl")
    assert metrics.read_text().count("\n") == 4
    report = metrics.parent / "report" / "report.html"
    assert "of 6" in out
    assert report.stat().st_size > 10_000


@pytest.mark.slow
def test_a_changed_setting_redoes_what_depends_on_it(folder: Path) -> None:
    (folder / "tiny.yaml").write_text(yaml.safe_dump(SETTINGS | {"tracking": {"uri": "off"}}))
    finished(folder)
    out = finished(folder, "--train.epochs", "2")
    assert "== mask (found, not done again)" in out
    assert "== train (found" not in out
    assert len(list((folder / "runs").glob("tiny/mask_guided/*/model/model.json"))) == 2
    out = finished(folder, "--mask-kind", "luminance")
    assert "== detect (found, not done again)" in out
    assert "== mask (found" not in out
    assert "== train (found" not in out
    out = finished(folder)
    assert "== train (found, not done again)" in out

"""The pipeline as a user runs it: killed and started again, and with changed settings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

SETTINGS = {
    "name": "tiny",
    "synth": {"preset": "cotton80", "cultivars": 3, "train_per_cultivar": 4, "test_per_cultivar": 2, "size": 96},
    "detect": {"num_annotated": 6, "init": "none", "image_size": 64, "epochs": 1, "batch_size": 4},
    "mask": {"boxes": "annotated_else_detected"},
    "method": "mask_guided",
    "options": {"backbone": "shufflenet_v2_x0_5"},
    "train": {"init": "none", "epochs": 6, "batch_size": 6, "resize": 40, "crop": 32, "checkpoint_seconds": 0},
    "evaluate": {"cam_leaves": 2, "region_leaves": 2},
}


def command(folder: Path, *more: str) -> list[str]:
    places = ["--source", str(folder / "leaves"), "--data", str(folder / "data"), "--runs", str(folder / "runs")]
    return [sys.executable, "-m", "ufgvc.cli", "pipeline", "--config", str(folder / "tiny.yaml"), *places, *more]


def finished(folder: Path, *more: str) -> str:
    done = subprocess.run(command(folder, *more), capture_output=True, text=True, timeout=280, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_killed_it_goes_on_and_a_changed_setting_redoes_what_depends_on_it(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(SETTINGS))
    synth = [
        sys.executable,
        "-m",
        "ufgvc.cli",
        "synth",
        "--config",
        str(tmp_path / "tiny.yaml"),
        "--out",
        str(tmp_path / "leaves"),
    ]
    subprocess.run(synth, check=True, capture_output=True)

    process = subprocess.Popen(
        command(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path, start_new_session=True
    )
    deadline = time.monotonic() + 240
    while not list((tmp_path / "runs").glob("tiny/mask_guided/*/progress.json")):
        assert process.poll() is None, "the pipeline ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    assert not list((tmp_path / "runs").glob("tiny/mask_guided/*/model/model.json")), (
        "it was killed too late to show anything"
    )

    out = finished(tmp_path)
    assert "== ingest (found, not done again)" in out
    assert "== detect (found, not done again)" in out
    assert "== mask (found, not done again)" in out
    assert "== train (found" not in out
    (metrics,) = (tmp_path / "runs").glob("tiny/mask_guided/*/metrics.jsonl")
    assert metrics.read_text().count("\n") == 6
    report = metrics.parent / "report" / "report.html"
    assert "of 6" in out
    assert report.stat().st_size > 10_000

    out = finished(tmp_path, "--train.epochs", "2")
    assert "== mask (found, not done again)" in out
    assert "== train (found" not in out
    assert len(list((tmp_path / "runs").glob("tiny/mask_guided/*/model/model.json"))) == 2


@pytest.mark.slow
def test_another_kind_of_mask_redoes_masks_and_training(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(SETTINGS | {"tracking": {"uri": "off"}}))
    synth = [
        sys.executable,
        "-m",
        "ufgvc.cli",
        "synth",
        "--config",
        str(tmp_path / "tiny.yaml"),
        "--out",
        str(tmp_path / "leaves"),
    ]
    subprocess.run(synth, check=True, capture_output=True)
    finished(tmp_path)
    out = finished(tmp_path, "--mask-kind", "luminance")
    assert "== detect (found, not done again)" in out
    assert "== mask (found" not in out
    assert "== train (found" not in out
    out = finished(tmp_path)
    assert "== train (found, not done again)" in out

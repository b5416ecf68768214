"""Control-C during a training. Ray Train handles the signal and exits; the command still reports what happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.factories import THREE, coloured, ingested
from tests.integration.submission import plain_environment, wait_until

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_training_in_the_process_of_the_command_is_stopped(number: signal.Signals, tmp_path: Path) -> None:
    check_stop(number, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_training_by_ray_train_is_stopped(number: signal.Signals, tmp_path: Path, ray_head: dict[str, str]) -> None:
    tokens = {name: value for name, value in os.environ.items() if name.startswith("RAY_AUTH_")}
    check_stop(number, tmp_path, **ray_head, **tokens)


@pytest.mark.slow
def test_a_training_by_ray_that_it_has_started_is_stopped(tmp_path: Path) -> None:
    check_stop(signal.SIGINT, tmp_path, workers=2)


def check_stop(number: signal.Signals, tmp_path: Path, workers: int = 1, **variables: str) -> None:
    """Sends the signal after the first epoch.  variables: of the command's environment."""
    data, runs = tmp_path / "data", tmp_path / "runs"
    leaves = [(each % 3, coloured(each % 3, each)) for each in range(9)]
    ingested(str(data), "tiny", THREE, [("train", leaves), ("test", leaves[:3])], 48)
    settings = "--train.init none --train.epochs 200 --train.batch-size 8 --train.resize 40 --train.crop 32"
    command = ["train", "--data", str(data), "--runs", str(runs), "--method", "resnet50"]
    command += ["--options.backbone", "shufflenet_v2_x0_5", *settings.split(), "--train.checkpoint-seconds", "0"]
    command += ["--train.workers", str(workers), "--train.cpus-per-worker", "0.5"]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ufgvc.cli", *command],
            cwd=ROOT,
            env=plain_environment(tmp_path) | variables,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(
                signal.SIGINT, signal.SIG_DFL
            ),  # what runs in the background starts with it ignored
        )
    try:
        wait_until(lambda: list(runs.glob("*/*/*/progress.json")) or process.poll() is not None, "the first epoch")
        assert process.poll() is None, (tmp_path / "log").read_text()
        process.send_signal(number)
        code = process.wait(120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    text = (tmp_path / "log").read_text()
    assert code == 128 + number, text
    assert "stopped; the same command continues from the last checkpoint" in text
    # Ray's own actors may still print theirs, each line with the actor's name before it.
    assert not any(line.startswith("Traceback") for line in text.splitlines()), text
    client = MlflowClient(f"sqlite:///{runs / 'mlflow.db'}")
    (run,) = client.search_runs([each.experiment_id for each in client.search_experiments()])
    assert run.info.status == "KILLED"
    assert not list(runs.glob("*/*/*/model/model.json"))

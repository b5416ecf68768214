"""Control-C during Ray Train, which handles the signal itself and exits; the command still reports what happened.

Once on the Ray head that tests share, and (slow) in a session of the command's own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.factories import three_cultivars
from tests.integration.submission import plain_environment, wait_until

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("number", "shared"), [(signal.SIGINT, True), pytest.param(signal.SIGTERM, False, marks=pytest.mark.slow)]
)
def test_a_training_that_is_stopped(
    number: signal.Signals, shared: bool, ray_head: dict[str, str], tmp_path: Path
) -> None:
    data, runs = tmp_path / "data", tmp_path / "runs"
    three_cultivars(str(data))
    settings = "--train.init none --train.epochs 200 --train.batch-size 4 --train.resize 40 --train.crop 32"
    command = ["train", "--data", str(data), "--runs", str(runs), "--method", "resnet50"]
    command += ["--options.backbone", "shufflenet_v2_x0_5", *settings.split(), "--train.checkpoint-seconds", "0"]
    environment = os.environ | ray_head | {"HOME": str(tmp_path)} if shared else plain_environment(tmp_path)
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ufgvc.cli", *command],
            cwd=ROOT,
            env=environment,
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
    ours = [line for line in text.splitlines() if " pid=" not in line]  # without what Ray's own processes print
    assert not [line for line in ours if "Traceback" in line], text
    client = MlflowClient(f"sqlite:///{runs / 'mlflow.db'}")
    (run,) = client.search_runs([each.experiment_id for each in client.search_experiments()])
    assert run.info.status == "KILLED"
    assert not list(runs.glob("*/*/*/model/model.json"))

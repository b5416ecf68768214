"""Settings that cannot work end in one message, exit code 2, before any worker starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.factories import three_cultivars
from tests.integration.ray_head import SLOTS
from tests.integration.s3_servers import new_bucket, use_server
from ufgvc.cli import main

TINY = ["train", "--method", "resnet50", "--options.backbone", "shufflenet_v2_x0_5", "--train.init", "none"]
TINY += ["--train.epochs", "1", "--train.batch-size", "4", "--train.resize", "40", "--train.crop", "32"]

pytestmark = pytest.mark.usefixtures("ray_local")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main([*TINY, *arguments]) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert message.startswith("ufgvc train: ")
    return message


@pytest.fixture(autouse=True)
def _no_worker_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object) -> None:
        raise AssertionError("the workers of a training were started")

    monkeypatch.setattr("ray.train.torch.TorchTrainer.fit", start)


@pytest.fixture
def leaves(tmp_path: Path) -> str:
    three_cultivars(str(tmp_path / "data"))
    return str(tmp_path / "data")


def test_more_cpus_than_there_are(leaves: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = ["--data", leaves, "--runs", str(tmp_path / "runs"), "--tracking.uri", "off"]
    assert f"40 CPUs leave none of the {SLOTS} for Ray Data" in refused(
        capsys, *places, "--train.cpus-per-worker", "40"
    )


def test_a_bucket_that_is_not_there(s3_environment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(
        capsys, "--data", "s3://leaf-that-nobody-made/x", "--runs", str(tmp_path), "--tracking.uri", "off"
    )
    assert "s3://leaf-that-nobody-made" in message
    assert "no such bucket" in message


def test_runs_in_a_bucket_that_is_not_there(
    leaves: str, s3_environment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refused(capsys, "--data", leaves, "--runs", "s3://leaf-that-nobody-made/runs", "--tracking.uri", "off")
    assert "no such bucket" in message


def test_wrong_credentials(
    rclone_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_server(rclone_endpoint, monkeypatch)
    bucket = new_bucket(rclone_endpoint)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-77")
    message = refused(capsys, "--data", f"s3://{bucket}/x", "--runs", str(tmp_path), "--tracking.uri", "off")
    assert "AWS_SECRET_ACCESS_KEY" in message
    assert "wrong-secret-77" not in message


def test_runs_on_object_storage_without_an_mlflow(
    leaves: str, s3: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert "set MLFLOW_TRACKING_URI" in refused(capsys, "--data", leaves, "--runs", f"{s3}/runs")

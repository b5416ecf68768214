"""ImageNet weights that cannot be had stop a training, and a pipeline, before anything is started or written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.trainings import LEAVES
from ufgvc.cli import main
from ufgvc.core.errors import UserError
from ufgvc.runtime.session import RaySettings
from ufgvc.training.preflight import check_weights


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing fetched yet, and no way out; Ray must not start."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("Ray starts"))


def stops(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    """The one message of a command that ends with exit code 2."""
    assert main([*command]) == 2
    message = capsys.readouterr().err
    assert message.count("could not be downloaded") == 1
    assert "Traceback" not in message
    return message


def test_a_training_names_the_weights_that_need_no_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    command = ["train", "--data", str(LEAVES), "--runs", str(runs), "--method", "resnet50", "--tracking.uri", "off"]
    message = stops(capsys, *command)
    assert "the ImageNet weights of resnet50" in message
    assert "efficientnet_lite0 (`--options.backbone`)" in message
    assert not runs.exists(), "nothing was written"


def test_a_pipeline_stops_before_its_first_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photographs").mkdir()
    places = ["--data", str(tmp_path / "data"), "--runs", str(tmp_path / "runs"), "--tracking.uri", "off"]
    command = ["pipeline", "--source", str(tmp_path / "photographs"), "--method", "mask_guided", "--name", "leaves"]
    assert "efficientnet_lite0" in stops(capsys, *command, *places)
    assert not (tmp_path / "data").exists()


def test_on_a_cluster_the_workers_load_them() -> None:
    check_weights("resnet50", {}, "imagenet", RaySettings(address="127.0.0.1:6379"))
    with pytest.raises(UserError, match="could not be downloaded"):
        check_weights("resnet50", {}, "imagenet", RaySettings())


def test_files_are_read_and_random_weights_need_nothing(tmp_path: Path) -> None:
    check_weights("resnet50", {}, "none", RaySettings())
    with pytest.raises(UserError, match="no such weight file"):
        check_weights("resnet50", {}, str(tmp_path / "lost.safetensors"), RaySettings())

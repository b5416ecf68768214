"""Places that a command reads and writes: absolute in a Ray job, and writable before the work begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_line import refused, settings_of
from ufgvc.core.errors import UserError
from ufgvc.core.places import check_absolute, check_writable
from ufgvc.runtime.session import in_ray_job


def test_a_job_is_known_by_rays_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

    monkeypatch.delenv(RAY_JOB_CONFIG_JSON_ENV_VAR, raising=False)
    assert not in_ray_job()
    monkeypatch.setenv(RAY_JOB_CONFIG_JSON_ENV_VAR, "{}")
    assert in_ray_job()


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["train", "--data", "leaves", "--runs", "/tmp/runs"], "--data"),
        (["train", "--data", "s3://bucket/leaves"], "--runs"),  # the default is relative too
        (
            ["predict", "--source", "/tmp/new", "--model", "/tmp/m", "--out", "./out", "--runs", "s3://bucket/runs"],
            "--out",
        ),
        (["sync", "--run", "runs/x", "--runs", "/tmp/runs"], "--run"),
        (["mask", "--data", "s3://b/d", "--runs", "s3://b/r", "--detector", "model"], "--detector"),
        (["train", "--data", "s3://b/d", "--runs", "s3://b/r", "--train.init", "weights/net.pt"], "--train.init"),
        (
            [
                "evaluate",
                "--data",
                "s3://b/d",
                "--runs",
                "s3://b/r",
                "--model",
                "models:/a@b",
                "--compare",
                "old=runs/m",
            ],
            "--compare",
        ),
        (
            ["detect", "--data", "s3://b/d", "--runs", "s3://b/r", "--init", "coco", "--coco-weights", "yolo.pt"],
            "--coco-weights",
        ),
        (
            ["pipeline", "--source", "s3://b/p", "--data", "s3://b/d", "--runs", "s3://b/r", "--detect.init", "a/b.pt"],
            "--detect.init",
        ),
    ],
)
def test_a_ray_job_refuses_relative_places(
    arguments: list[str], flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    message = refused(capsys, *arguments)
    assert f"{flag}: the relative path" in message
    assert "s3://" in message


def test_absolute_places_and_names_are_accepted_in_a_job() -> None:
    with pytest.raises(UserError):
        check_absolute(settings_of("train", "--data", "leaves"))
    check_absolute(settings_of("train", "--data", "~/leaves", "--runs", "s3://bucket/runs"))
    shared = ["--data", "s3://b/d", "--runs", "s3://b/r"]
    check_absolute(settings_of("mask", *shared, "--box-source", "annotated"))  # a choice, no place
    check_absolute(settings_of("train", *shared, "--train.init", "imagenet"))
    models = ["--model", "models:/ufgvc-x@champion", "--compare", "old=runs:/0123/model"]
    check_absolute(settings_of("evaluate", *shared, *models))


def test_a_pipeline_asks_for_an_mlflow_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    places = ["--source", str(tmp_path), "--data", str(tmp_path / "data"), "--runs", "s3://b/r"]
    assert "--runs s3://b/r: MLflow keeps its database" in refused(capsys, "pipeline", *places)
    assert not (tmp_path / "data").exists()


def test_what_is_written_must_be_writable_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    below, data = str(tmp_path / "file" / "below"), ["--data", str(tmp_path)]
    for flags in (["--runs", below], ["--tracking.artifacts", below]):
        with pytest.raises(UserError):
            check_writable(settings_of("train", *data, *flags))
        check_writable(settings_of("calibrate", *data, "--model", "x", *flags))  # only reads there
    with pytest.raises(UserError):
        check_writable(settings_of("ingest", "--source", str(tmp_path), "--data", below))
    check_writable(settings_of("train", "--data", below))

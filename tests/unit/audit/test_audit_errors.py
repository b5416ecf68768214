"""What a person reads when a data set or a model cannot be audited."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_line import refused
from tests.factories import THREE, coloured, ingested
from tests.golden.trainings import HERE


def data_of(folder: Path, train: list[int], test: list[int]) -> str:
    """A data set with a leaf for each of these labels."""
    shards = [
        ("train", [(label, coloured(label, row)) for row, label in enumerate(train)]),
        ("test", [(label, coloured(label, row + 50)) for row, label in enumerate(test)]),
    ]
    ingested(str(folder / "data"), "tiny", THREE, shards, 48)
    return str(folder / "data")


def test_no_data_set(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = refused(capsys, "audit", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "out"))
    assert "holds no data set" in message
    assert "ufgvc ingest" in message
    assert not (tmp_path / "out").exists()


def test_one_cultivar(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = data_of(tmp_path, [1, 1], [1])
    message = refused(capsys, "audit", "--data", data, "--out", str(tmp_path / "out"))
    assert "an audit compares cultivars" in message
    assert data in message


def test_one_leaf_of_each_cultivar(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = refused(capsys, "audit", "--data", data_of(tmp_path, [0, 1], [2]), "--out", str(tmp_path / "out"))
    assert "fewer than two cultivars have more than one leaf" in message
    assert "at least two photographs" in message


def test_a_model_of_other_cultivars(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = data_of(tmp_path, [0, 0, 1, 1], [0, 1])
    message = refused(
        capsys, "audit", "--data", data, "--out", str(tmp_path / "out"), "--model", str(HERE / "model")
    )  # fmt: skip
    assert "only the data set has" in message
    assert "leave --model out" in message


def test_no_such_model_and_no_such_weights(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data, out = data_of(tmp_path, [0, 0, 1, 1], [0, 1]), str(tmp_path / "out")
    assert "none" in refused(capsys, "audit", "--data", data, "--out", out, "--model", str(tmp_path / "none"))
    missing = str(tmp_path / "weights.safetensors")
    assert missing in refused(capsys, "audit", "--data", data, "--out", out, "--init", missing)
    assert not (tmp_path / "out").exists()


def test_a_photograph_that_is_damaged(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shards = [("train", [(0, coloured(0, 0)), (0, coloured(0, 1)), (1, coloured(1, 2)), (1, coloured(1, 3)[:200])])]
    ingested(str(tmp_path / "data"), "tiny", THREE, shards, 48)
    words = ("--init", "none", "--backbone", "shufflenet_v2_x0_5", "--side", "32")
    message = refused(capsys, "audit", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), *words)
    assert "the photograph train-3" in message

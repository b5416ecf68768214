"""`ufgvc status` with a data set and runs in a bucket, and with a registry of MLflow's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.command_line import ufgvc
from tests.factories import THREE, three_cultivars
from ufgvc import methods
from ufgvc.core.storage import join, open_store
from ufgvc.models.format import save_model
from ufgvc.tracking.context import Context
from ufgvc.tracking.registry import register
from ufgvc.tracking.settings import TrackingSettings
from ufgvc.tracking.versions import find_version, get_champion, set_champion


@pytest.fixture
def run(s3: str, tmp_path: Path) -> str:
    """The folder of an evaluated run in the bucket; its photographs are in <bucket>/data."""
    fingerprint = three_cultivars(f"{s3}/data")
    torch.manual_seed(0)
    method = methods.build("resnet50", len(THREE), init="none", backbone="squeezenet1_1")
    save_model(tmp_path / "model", method, THREE, {"resize": 32, "size": 32}, {"data": fingerprint}, {})
    store = open_store(f"{s3}/runs/tiny/resnet50/0123456789ab")
    store.upload(tmp_path / "model", "model")
    store.write_text("config.yaml", f"data: {fingerprint}\n")
    accuracy = {"k": 6, "n": 9, "low": 0.35, "high": 0.88}
    report = {"fingerprint": fingerprint, "models": {"this model": {"accuracy": accuracy}}}
    store.write_json("report/metrics.json", report)
    return store.uri


def test_a_bucket_and_a_registry(run: str, s3: str, tmp_path: Path) -> None:
    places = ("--data", f"{s3}/data", "--runs", f"{s3}/runs")
    ended = ufgvc("status", *places)
    assert ended.code == 0, ended.text
    assert "data      tiny: 3 cultivars, 3 train, 9 test leaves" in ended.out
    assert "6 of 9 test = 66.7\u00a0% (35.0 to 88.0)" in ended.out
    assert "registry  not read (--runs s3://" in ended.out, "MLflow cannot be in a bucket"
    assert f"next: ufgvc predict --source <photographs> --model {run}/model" in ended.out

    tracking = TrackingSettings(uri=f"sqlite:///{tmp_path}/mlflow.db", artifacts=str(tmp_path / "artifacts"))
    database = ("--tracking.uri", str(tracking.uri))
    before = ufgvc("status", *places, *database)
    assert "registry  no version of ufgvc-tiny" in before.out
    assert not (tmp_path / "mlflow.db").exists(), "looking must not make a database"

    context = Context(runs=f"{s3}/runs", tracking=tracking)
    assert register(join(run, "model"), "ufgvc-tiny", {"accuracy": "6/9"}, context) == "1"
    challenged = ufgvc("status", *places, *database)
    assert "registry  ufgvc-tiny: 1 version; no champion, challenger 1 (6 of 9 right)" in challenged.out
    assert f"next: ufgvc promote --data {s3}/data" in challenged.out

    set_champion(find_version("models:/ufgvc-tiny/1", "ufgvc-tiny", context), None, context)
    champion = get_champion("ufgvc-tiny", context)
    assert champion is not None
    promoted = ufgvc("status", *places, *database)
    assert "champion 1 (6 of 9 right), challenger 1" in promoted.out
    assert "--model models:/ufgvc-tiny@champion" in promoted.out


def test_a_server_that_does_not_answer_hides_nothing_else(run: str, s3: str, free_port) -> None:
    address = f"http://user:secret@127.0.0.1:{free_port()}"
    ended = ufgvc("status", "--data", f"{s3}/data", "--runs", f"{s3}/runs", "--tracking.uri", address)
    assert ended.code == 0, ended.text
    assert "6 of 9 test" in ended.out
    assert "registry  not read (http://***@127.0.0.1" in ended.out
    assert "secret" not in ended.text

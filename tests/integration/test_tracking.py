"""Runs on a real MLflow: its database, and a server process that is absent, comes, goes and comes back."""

from __future__ import annotations

import io
import json
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import stop
from ufgvc import methods
from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store
from ufgvc.models.format import save_model
from ufgvc.models.model import load_model
from ufgvc.tracking.context import Context
from ufgvc.tracking.registry import download_model, list_versions, register, register_folder
from ufgvc.tracking.runs import MlflowRun, NullRun, Run, start_run
from ufgvc.tracking.settings import TrackingSettings, resolve
from ufgvc.tracking.sync import sync

Serve = Callable[..., subprocess.Popen[bytes]]
LOCAL = TrackingSettings()


@pytest.fixture(autouse=True)
def _no_server_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database with MLflow's tables, to be copied: making them takes seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="module")
def runs(database: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A runs folder whose database all tests share."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copy(database, folder)
    return str(folder)


def client_of(settings: TrackingSettings, runs: str) -> Any:
    from mlflow import MlflowClient

    place = resolve(settings, runs)
    assert place is not None
    return MlflowClient(place.uri, place.uri)


def begin(runs: str, name: str, settings: TrackingSettings = LOCAL, **more: Any) -> Run:
    store = open_store(runs).child("tiny", "resnet50", name)
    params: dict[str, Any] = {"train": {"epochs": 3, "sizes": [1, 2]}, "source": "https://me:secret@h/x"}
    return start_run(Context(runs=runs, tracking=settings), "tiny", name, params, {"data": "f00d"}, store=store, **more)


def rows(client: Any, run_id: str, key: str) -> list[tuple[int, float]]:
    return sorted((row.step, row.value) for row in client.get_metric_history(run_id, key))


def test_a_run_records_its_settings_and_no_secret(runs: str) -> None:
    run = begin(runs, "first")
    run.log_metrics({"loss": 0.5}, 1)
    run.log_text("hello", "notes/hello.txt")
    run.finish()
    client = client_of(LOCAL, runs)
    found = client.get_run(run.id)
    assert client.get_experiment(found.info.experiment_id).name == "tiny"
    assert found.info.status == "FINISHED"
    assert found.data.params == {"train.epochs": "3", "train.sizes": "[1, 2]", "source": "https://***@h/x"}
    assert found.data.tags["data"] == "f00d"
    assert found.data.tags["version.torch"]
    folder = Path(runs) / "mlartifacts" / run.id / "artifacts"
    assert "epochs: 3" in (folder / "config.yaml").read_text()
    assert (folder / "notes" / "hello.txt").read_text() == "hello"
    kept = b"".join(path.read_bytes() for path in Path(runs).rglob("*") if path.is_file())
    assert b"secret@h" not in kept


def test_the_same_epochs_again_are_one_row_a_step(runs: str) -> None:
    run = begin(runs, "crashed")
    for epoch in (1, 2):
        run.log_metrics({"loss": 1 / epoch, "speed": 10.0 + epoch}, epoch)
    again = begin(runs, "crashed")  # the process died; the journal has the run
    assert again.id == run.id
    for epoch in (1, 2, 3):
        again.log_metrics({"loss": 1 / epoch, "speed": 20.0 + epoch}, epoch)
    again.finish()
    client = client_of(LOCAL, runs)
    assert rows(client, again.id, "loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert rows(client, again.id, "speed") == [(1, 11.0), (2, 12.0), (3, 23.0)]


def test_without_the_journal_the_same_values_are_one_row_too(runs: str) -> None:
    run = start_run(Context(runs=runs, tracking=LOCAL), "tiny", "bare", {}, {})
    again = start_run(Context(runs=runs, tracking=LOCAL), "tiny", "bare", {}, {}, run_id=run.id)
    for each in (run, again):
        each.log_metrics({"loss": 0.5, "bad": float("nan")}, 4)
    assert again.id == run.id
    client = client_of(LOCAL, runs)
    history = client.get_metric_history(run.id, "loss")
    assert [(row.step, row.timestamp) for row in history] == [(4, client.get_run(run.id).info.start_time + 4)]
    assert len(client.get_metric_history(run.id, "bad")) == 1


def test_changed_settings_of_a_continued_run_do_not_stop_it(runs: str) -> None:
    run = start_run(Context(runs=runs, tracking=LOCAL), "tiny", "changed", {"lr": 0.1}, {})
    start_run(
        Context(runs=runs, tracking=LOCAL), "tiny", "changed", {"lr": 0.2, "new": 1}, {}, run_id=run.id
    ).log_metrics({"loss": 1.0}, 1)
    found = client_of(LOCAL, runs).get_run(run.id)
    assert found.data.params == {"lr": "0.1", "new": "1"}
    assert found.data.metrics == {"loss": 1.0}


def test_nested_runs_and_a_run_that_mlflow_lost(runs: str) -> None:
    parent = begin(runs, "parent")
    child = begin(runs, "child", parent=parent.id)
    client = client_of(LOCAL, runs)
    assert client.get_run(child.id).data.tags["mlflow.parentRunId"] == parent.id
    child.log_metrics({"loss": 0.5}, 1)
    client.delete_run(child.id)
    again = begin(runs, "child", parent=parent.id)
    assert again.id not in (None, child.id)
    again.finish()
    assert rows(client, again.id, "loss") == [(1, 0.5)]


def test_a_process_that_died_before_it_wrote_the_runs_id(runs: str) -> None:
    """MLflow has created the run, and the journal does not say so: it is found by its key, and goes on."""
    first = begin(runs, "died")
    journal = open_store(runs).child("tiny", "resnet50", "died", "journal")
    journal.write_json("run.json", journal.read_json("run.json") | {"id": None, "described": False})
    again = begin(runs, "died")
    assert again.id == first.id
    again.log_metrics({"loss": 1.5}, step=1)
    assert rows(client_of(LOCAL, runs), str(first.id), "loss") == [(1, 1.5)]
    assert journal.read_json("run.json")["id"] == first.id


def test_off_keeps_nothing(tmp_path: Path) -> None:
    run = begin(str(tmp_path), "off", TrackingSettings(uri="off"))
    assert isinstance(run, NullRun)
    run.log_metrics({"loss": 1.0}, 1)
    run.finish()
    assert list(tmp_path.rglob("*")) == []


def test_a_server_that_is_absent_then_killed_then_back(
    serve: Serve, free_port: Callable[[], int], database: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(database, tmp_path / "server.db")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = TrackingSettings(uri=url, timeout=2)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    command += ["--artifacts-destination", str(tmp_path / "served")]
    runs = str(tmp_path / "runs")
    run_folder = str(tmp_path / "runs" / "tiny" / "resnet50" / "away")
    with caplog.at_level(logging.WARNING):
        started = time.monotonic()
        run = begin(runs, "away", settings)
        for epoch in range(1, 6):
            run.log_metrics({"loss": 1 / epoch}, epoch)
        run.log_text("page", "report/page.html")
        assert time.monotonic() - started < 10, "training must not wait for an absent server"
    assert run.id is None
    assert sum("MLflow is unavailable" in record.message for record in caplog.records) == 1
    with pytest.raises(UserError, match="start the server"):
        sync(run_folder, Context(runs=runs, tracking=settings))

    server = serve(command, f"{url}/health", log=tmp_path / "server.log")
    assert sync(run_folder, Context(runs=runs, tracking=settings)) == 6
    assert sync(runs, Context(runs=runs, tracking=settings)) == 0
    run = begin(runs, "away", settings)
    run.log_metrics({"loss": 1 / 6}, 6)
    client = client_of(settings, runs)
    assert rows(client, run.id, "loss") == [(epoch, 1 / epoch) for epoch in range(1, 7)]
    assert [file.path for file in client.list_artifacts(run.id, "report")] == ["report/page.html"]

    stop(server)
    run.log_metrics({"loss": 1 / 7}, 7)
    run.finish()
    assert open_store(run_folder).child("journal").read_json("run.json")["sent"] == 6
    serve(command, f"{url}/health", log=tmp_path / "server2.log")
    assert sync(run_folder, Context(runs=runs, tracking=settings)) == 1
    assert rows(client, run.id, "loss") == [(epoch, 1 / epoch) for epoch in range(1, 8)]
    assert client.get_run(run.id).info.status == "FINISHED"


def photograph() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_a_model_is_registered_once_and_found_by_every_address(runs: str) -> None:
    run = begin(runs, "model")
    folder = Path(runs) / "tiny" / "resnet50" / "model" / "model"
    made = methods.build("resnet50", 3, backbone="shufflenet_v2_x0_5")
    made.net.eval()
    save_model(
        folder,
        made,
        ["a", "b", "c"],
        {"resize": 40, "size": 32},
        {"data": "f00d"},
        {"accuracy": 0.5},
        {"run_id": run.id},
    )
    run.log_folder(folder, "model")
    run.finish()
    version = register(str(folder), "ufgvc-tiny", {"accuracy": "3/6"}, Context(runs=runs, tracking=LOCAL))
    assert register(f"runs:/{run.id}/model", "ufgvc-tiny", {"low": 0.2}, Context(runs=runs, tracking=LOCAL)) == version
    (found,) = list_versions("ufgvc-tiny", Context(runs=runs, tracking=LOCAL))
    assert found.tags == {"accuracy": "3/6", "low": "0.2"}
    wanted = load_model(str(folder)).predict([photograph()])
    for uri in ("models:/ufgvc-tiny@challenger", f"models:/ufgvc-tiny/{version}", f"runs:/{run.id}/model"):
        model = load_model(uri, Context(runs=runs, tracking=LOCAL))
        assert model.predict([photograph()]).equals(wanted)
        assert model.info["fingerprints"] == {"data": "f00d"}
    assert {entry["cultivar"] for entry in json.loads(wanted.top5[0])} == {"a", "b", "c"}
    with pytest.raises(UserError, match="known: models:/ufgvc-tiny@challenger"):
        load_model("models:/ufgvc-tiny@champion", Context(runs=runs, tracking=LOCAL))
    with pytest.raises(UserError, match="known: models:/ufgvc-tiny@challenger"):
        load_model("models:/ufgvc-other/1", Context(runs=runs, tracking=LOCAL))
    with pytest.raises(UserError, match="knows no such model"):
        load_model("runs:/0123/model", Context(runs=runs, tracking=LOCAL))
    with download_model("models:/ufgvc-tiny@challenger", Context(runs=runs, tracking=LOCAL)) as copy:
        assert {each.name for each in copy.iterdir()} == {each.name for each in folder.iterdir()} - {"code"}
    shutil.rmtree(Path(runs) / "mlartifacts" / str(run.id) / "artifacts" / "model")
    with pytest.raises(UserError, match="its files are missing"):
        load_model("models:/ufgvc-tiny@challenger", Context(runs=runs, tracking=LOCAL))


def test_any_folder_can_be_registered(runs: str, tmp_path: Path) -> None:
    (tmp_path / "detector").mkdir()
    (tmp_path / "detector" / "weights.pt").write_bytes(b"abc")
    version = register_folder(
        str(tmp_path / "detector"), "ufgvc-tiny-regions", {"map50": 0.9}, Context(runs=runs, tracking=LOCAL)
    )
    (found,) = list_versions("ufgvc-tiny-regions", Context(runs=runs, tracking=LOCAL))
    assert (str(found.version), found.tags) == (version, {"map50": "0.9"})
    assert [file.path for file in client_of(LOCAL, runs).list_artifacts(found.run_id, "model")] == ["model/weights.pt"]


def test_artifacts_and_journal_on_object_storage(s3: str, database: Path, tmp_path: Path) -> None:
    shutil.copy(database, tmp_path / "ml.db")
    settings = TrackingSettings(uri=f"sqlite:///{tmp_path}/ml.db")
    run = begin(f"{s3}/runs", "far", settings)
    assert isinstance(run, MlflowRun)
    run.log_metrics({"loss": 0.5}, 1)
    run.log_text("hello", "hello.txt")
    run.finish()
    store = open_store(f"{s3}/runs")
    assert store.read_text(f"mlartifacts/{run.id}/artifacts/hello.txt") == "hello"
    journal = store.child("tiny", "resnet50", "far", "journal")
    assert journal.read_json("run.json")["sent"] == 1
    assert sorted(journal.list()) == ["metrics.jsonl", "run.json"]
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "weights.bin").write_bytes(b"abc")
    open_store(f"{s3}/runs").upload(tmp_path / "folder", "detector")
    register_folder(
        f"{s3}/runs/detector", "ufgvc-far-regions", {}, Context(runs=f"{s3}/runs", tracking=settings), run_id=run.id
    )
    assert store.read_bytes(f"mlartifacts/{run.id}/artifacts/model/weights.bin") == b"abc"

"""Embeddings by an actor pool: the same classifier as in one process, whatever the workers and the storage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.factories import coloured, ingested
from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store
from ufgvc.data.dataset import open_dataset
from ufgvc.methods import build
from ufgvc.methods.method import Method
from ufgvc.models.model import load_model
from ufgvc.tracking.context import Context
from ufgvc.tracking.settings import TrackingSettings
from ufgvc.training import embedding_pool
from ufgvc.training.embedding_pool import embed_split
from ufgvc.training.in_process import train_in_process
from ufgvc.training.run import make_worker_config, train
from ufgvc.training.settings import TrainSettings, WorkerConfig

pytestmark = pytest.mark.usefixtures("ray_local")
OPTIONS = {"backbone": "shufflenet_v2_x0_5"}
OFF = TrackingSettings(uri="off")
CPU = torch.device("cpu")


def settings(**changes: Any) -> TrainSettings:
    return TrainSettings(**({"init": "none", "resize": 64, "crop": 64, "cpus_per_worker": 0.5} | changes))


def config_for(data: str, runs: str, **changes: Any) -> WorkerConfig:
    dataset = open_dataset(data)
    method = build("linear_probe", len(dataset.classes), init="none", **OPTIONS)
    return make_worker_config(dataset, method, settings(**changes), 3, None, runs)[0]


def leaves(data: str, damaged: int | None = None) -> str:
    """19 training leaves of three cultivars in two files, one of which cannot be decoded, whatever its hash says."""
    rows = [(place % 3, coloured(place % 3, place)) for place in range(19)]
    if damaged is not None:
        rows[damaged] = rows[damaged][0], b"no photograph"
    ingested(data, "tiny", ("a", "b", "c"), [("train", rows[:11]), ("train", rows[11:])], 48)
    return data


def logits(method: Method) -> np.ndarray:
    images = torch.rand(5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return method.predict(images, method.net.eval()).numpy()


def fitted(config: WorkerConfig) -> np.ndarray:
    """The logits of the classifier that this process fits."""
    method = build("linear_probe", 3, init="none", **OPTIONS)
    method.net.load_state_dict(train_in_process(config, CPU)["net"])
    return logits(method)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return leaves(str(tmp_path_factory.mktemp("data")))


@pytest.fixture(scope="module")
def alone(data: str, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Of a process that embeds decoded images itself, as trials do."""
    return fitted(config_for(data, str(tmp_path_factory.mktemp("alone")), cache="host"))


@pytest.mark.parametrize(
    ("workers", "left"),
    [pytest.param(1, 1000, marks=pytest.mark.slow, id="by the worker"), pytest.param(2, 0, id="by actors, for two")],
)
def test_workers_fit_the_classifier_of_one_process(
    workers: int, left: int, data: str, alone: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_pool, "MAX_IN_WORKERS", left)
    context = Context(runs=str(tmp_path), tracking=OFF, seed=3)
    model = load_model(train(data, "linear_probe", OPTIONS, settings(workers=workers), context).model)
    assert np.allclose(logits(model.method), alone, atol=0.01)
    (folder,) = [path for path in (tmp_path / "_cache").iterdir() if path.is_dir()]  # no decoded images
    assert len(list(folder.glob("*.npy"))) == 3


def test_from_a_bucket_and_after_a_stop(
    s3: str,
    alone: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(embedding_pool, "MAX_IN_WORKERS", 0)
    caplog.set_level("INFO")
    config = replace(config_for(leaves(f"{s3}/data"), f"{s3}/runs"), cache_folder=str(tmp_path))
    assert embed_split(config)
    store = open_store(f"{s3}/runs/_cache")
    whole = store.list()
    assert [name.rpartition("/")[2] for name in whole] == [
        "000000000-000000008.npy",
        "000000008-000000011.npy",
        "000000011-000000019.npy",
    ]
    # A kill leaves complete shards; the same command makes the others.
    content = store.read_bytes(whole[1])
    store.delete(whole[1])
    caplog.clear()
    assert embed_split(config)
    assert "embed: 3 leaves, up to 1 actors" in caplog.text
    assert (store.list(), len(store.read_bytes(whole[1]))) == (whole, len(content))
    assert not embed_split(config)
    monkeypatch.setattr("ufgvc.training.embeddings.embed_images", lambda *_: pytest.fail("embedded again"))
    assert np.allclose(fitted(config), alone, atol=0.01)
    assert sorted(path.name for path in tmp_path.glob("*/*.npy")) == [name.rpartition("/")[2] for name in whole]
    leaves(f"{s3}/data", damaged=18)
    with pytest.raises(UserError, match="the photograph train-18 ") as caught:
        embed_split(config)
    assert "run `ufgvc ingest` again" in str(caught.value)

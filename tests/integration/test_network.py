"""The network interface that training workers use."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import pytest

from ufgvc.core.storage import open_store
from ufgvc.experiments.distributed_trial import train_distributed, train_folds_distributed
from ufgvc.methods.recipe import Recipe, Stage
from ufgvc.tracking.runs import NullRun
from ufgvc.training import run
from ufgvc.training.controller import ProcessGroupConfig, bind_gloo_to_ray_interface, interface_of
from ufgvc.training.settings import TrainSettings, WorkerConfig

RECIPE = Recipe(stages=(Stage(epochs=1, lr=0.1),), batch_size=8, resize=40, crop=32).model_dump(mode="json")


def test_the_interface_of_an_address() -> None:
    assert interface_of("127.0.0.1").startswith("lo")
    assert interface_of("203.0.113.7") is None, "an address of documentation, which no machine has"


def test_what_the_user_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    bind_gloo_to_ray_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "ib0"
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    bind_gloo_to_ray_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == interface_of("127.0.0.1")


def test_workers_of_trainings_and_trials_use_the_same_interface(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A trial's several workers, too, may be on several nodes. Nothing is started: only what would be."""
    import ray
    from ray.train.torch import TorchTrainer

    begun: list[TorchTrainer] = []

    def fit(self: TorchTrainer) -> SimpleNamespace:
        begun.append(self)
        return SimpleNamespace(checkpoint=None, return_value=None)

    monkeypatch.setattr(TorchTrainer, "fit", fit)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0})
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 8.0}}])
    store = open_store(str(tmp_path))
    plan = WorkerConfig(
        **{field.name: None for field in fields(WorkerConfig)}
        | {"run": store.uri, "data": store.uri, "recipe": RECIPE, "train": TrainSettings(workers=2)}
    )
    with pytest.raises(RuntimeError, match="ended without a checkpoint"):
        run._fit(plan, store, NullRun(), str(tmp_path))
    with pytest.raises(RuntimeError, match="ended without a checkpoint"):
        train_distributed(plan)
    list(train_folds_distributed([plan], plan.train, store))
    assert len(begun) == 3
    for each in begun:
        assert isinstance(each.backend_config, ProcessGroupConfig)
        assert each.backend_config.backend == "gloo"
        assert each.scaling_config.num_workers == 2

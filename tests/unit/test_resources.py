"""Which device is chosen, and how large an actor pool is."""

from __future__ import annotations

from typing import Any

import pytest

from ufgvc.core.errors import UserError
from ufgvc.evaluation.predict import predicts_in_process
from ufgvc.evaluation.settings import PredictSettings
from ufgvc.runtime.resources import ActorSettings, Device, actor_pool, choose_device
from ufgvc.runtime.session import RaySettings


@pytest.mark.parametrize(
    ("device", "gpus", "needed", "chosen"),
    [("cpu", 8, 1, "cpu"), ("auto", 0, 1, "cpu"), ("auto", 1, 0.25, "cuda"), ("gpu", 2, 2, "cuda")],
)
def test_the_device_for_a_wish(device: Device, gpus: float, needed: float, chosen: str) -> None:
    assert choose_device(device, gpus, needed) == chosen


@pytest.mark.parametrize(
    ("device", "gpus", "needed", "said"),
    [("gpu", 0, 1, "the cluster has no GPU"), ("auto", 1, 2, "1 of 2 GPUs"), ("gpu", 2, 3, "2 of 3 GPUs")],
)
def test_fewer_gpus_than_needed_are_an_error(device: Device, gpus: float, needed: float, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        choose_device(device, gpus, needed)
    assert "--device cpu" in str(caught.value.fix)


def cluster(patch: pytest.MonkeyPatch, *nodes: dict[str, float]) -> None:
    total: dict[str, float] = {}
    for node in nodes:
        for name, value in node.items():
            total[name] = total.get(name, 0) + value
    patch.setattr("ray.cluster_resources", lambda: total)
    patch.setattr("ray.nodes", lambda: [{"Alive": True, "Resources": node} for node in nodes])


@pytest.mark.parametrize(
    ("nodes", "settings", "tasks", "device", "size"),
    [
        ([{"CPU": 4.0}], {}, 100, "cpu", 3),  # one slot is left for Ray Data
        ([{"CPU": 4.0}], {}, 2, "cpu", 2),
        ([{"CPU": 4.0}], {"max_actors": 1}, 100, "cpu", 1),
        ([{"CPU": 1.0}], {}, 100, "cpu", 1),
        ([{"CPU": 4.0}] * 3, {"cpus_per_actor": 3}, 100, "cpu", 3),
        ([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 64.0}], {}, 100, "cuda", 2),
        ([{"CPU": 8.0, "GPU": 2.0}], {"device": "cpu", "max_actors": 50}, 100, "cpu", 7),
    ],
)
def test_as_many_actors_as_fit(
    nodes: Any, settings: Any, tasks: int, device: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster(monkeypatch, *nodes)
    pool = actor_pool(ActorSettings(**settings), tasks)
    assert (pool.device, pool.max_actors) == (device, size)
    assert pool.options["num_gpus"] == (1 if device == "cuda" else 0)


def test_code_that_cannot_use_a_gpu_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, {"CPU": 8.0, "GPU": 2.0})
    assert actor_pool(ActorSettings(), 100, can_use_gpu=False).device == "cpu"


def test_an_actor_that_no_node_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, {"CPU": 2.0, "GPU": 1.0}, {"CPU": 16.0})
    with pytest.raises(UserError, match=r"no node has the 4 CPU and 1 GPU .* 1 x 16 CPU \+ 0 GPU, 1 x 2 CPU") as caught:
        actor_pool(ActorSettings(cpus_per_actor=4), 100)
    assert caught.value.where == "--cpus-per-actor"
    assert "--device cpu" in str(caught.value.fix)


def test_only_an_explicit_gpu_is_waited_for() -> None:
    assert ActorSettings(device="auto", min_actors=3).gpus_to_wait_for == 0
    assert ActorSettings(device="gpu", min_actors=3).gpus_to_wait_for == 3


@pytest.mark.parametrize(
    ("photographs", "settings", "here"),
    [
        (100, {}, True),
        (101, {}, False),
        (1, {"max_actors": 1}, False),
        (5000, {"max_actors": 0}, True),
        (1, {"device": "gpu"}, False),  # the cluster may have its GPU on another node
        (1, {"device": "cpu"}, True),
    ],
)
def test_a_few_photographs_are_predicted_in_this_process(photographs: int, settings: Any, here: bool) -> None:
    assert predicts_in_process(photographs, PredictSettings(**settings), RaySettings(address="auto")) is here

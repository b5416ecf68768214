"""Checks before a training: GPUs, CPUs and nodes that hold its workers, batches, crops, places that other nodes see."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ufgvc.core.errors import UserError
from ufgvc.runtime.resources import Device, TorchDevice, count_slots
from ufgvc.training.preflight import (
    check_batch,
    check_cpus,
    check_crop,
    check_nodes_hold,
    check_places,
    choose_training_device,
)
from ufgvc.training.settings import TrainSettings


@pytest.mark.parametrize(
    ("wish", "gpus", "workers", "choice"),
    [
        ("cpu", 8, 1, "cpu"),
        ("auto", 0, 4, "cpu"),
        ("auto", 1, 1, "cuda"),
        ("auto", 4, 2, "cuda"),
        ("gpu", 2, 2, "cuda"),
    ],
)
def test_gpus_are_taken_where_they_are(wish: Device, gpus: float, workers: int, choice: str) -> None:
    assert choose_training_device(TrainSettings(device=wish, workers=workers), gpus) == choice


@pytest.mark.parametrize(
    ("wish", "gpus", "workers", "advice"),
    [
        ("gpu", 0, 1, "--train.device cpu"),
        ("gpu", 0, 4, "--train.device cpu"),
        ("auto", 2, 3, "--train.workers 2"),
        ("gpu", 1, 2, "--train.workers 1"),
    ],
)
def test_gpus_that_are_not_there(wish: Device, gpus: float, workers: int, advice: str) -> None:
    with pytest.raises(UserError) as caught:
        choose_training_device(TrainSettings(device=wish, workers=workers), gpus)
    assert caught.value.what == (f"the cluster has {gpus} of {workers} GPUs" if gpus else "the cluster has no GPU")
    assert caught.value.fix == f"use `{advice}`"
    wish, workers = ("cpu", workers) if "device" in advice else (wish, int(advice.split()[-1]))
    choose_training_device(TrainSettings(device=wish, workers=workers), gpus)  # the advice works


@pytest.mark.parametrize(
    ("nodes", "each", "room"),
    [
        ([{"CPU": 4.0}] * 3, {"CPU": 2.5}, 3),
        ([{"CPU": 4.0}] * 3, {"CPU": 2.0}, 6),
        ([{"CPU": 0.3}, {"CPU": 1.0}], {"CPU": 0.1}, 13),  # 0.3 / 0.1 is a little less than 3
        ([{"CPU": 7.0, "GPU": 1.0}, {"CPU": 64.0}], {"CPU": 3.0, "GPU": 1.0}, 1),
        ([{"CPU": 7.0, "GPU": 4.0}], {"CPU": 1.0, "GPU": 0.25}, 7),
        ([{"memory": 1e9}, {}], {"CPU": 1.0}, 0),
        ([], {"CPU": 1.0}, 0),
    ],
)
def test_how_many_processes_the_nodes_hold(nodes: Any, each: Any, room: int) -> None:
    assert count_slots(nodes, each) == room


@pytest.mark.parametrize(
    ("workers", "each", "device", "nodes", "said"),
    [
        (1, 6.0, "cpu", [{"CPU": 4.0}] * 3, "room for 0 (nodes: 3 x 4 CPU)"),
        (4, 2.5, "cpu", [{"CPU": 4.0}] * 3, "room for 3"),
        (2, 3.0, "cuda", [{"CPU": 2.0, "GPU": 2.0}, {"CPU": 64.0}], "nodes: 1 x 2 CPU + 2 GPU, 1 x 64 CPU + 0 GPU"),
    ],
)
def test_a_worker_that_no_node_can_hold_is_refused(
    workers: int, each: float, device: TorchDevice, nodes: Any, said: str
) -> None:
    settings = TrainSettings(workers=workers, cpus_per_worker=each)
    check_cpus(settings, sum(node["CPU"] for node in nodes))  # together they have enough
    with pytest.raises(UserError) as caught:
        check_nodes_hold(settings, device, nodes)
    assert said in caught.value.what
    assert "--train.cpus-per-worker" in str(caught.value.fix)


def test_workers_that_the_nodes_hold() -> None:
    check_nodes_hold(TrainSettings(workers=3, cpus_per_worker=2.5), "cpu", [{"CPU": 4.0}] * 3)
    check_nodes_hold(TrainSettings(workers=2, cpus_per_worker=3), "cuda", [{"CPU": 7.0, "GPU": 1.0}] * 2)


@pytest.mark.parametrize(("workers", "each", "cpus"), [(1, 1.0, 2), (3, 1.0, 4), (6, 0.5, 4)])
def test_enough_cpus(workers: int, each: float, cpus: float) -> None:
    check_cpus(TrainSettings(workers=workers, cpus_per_worker=each), cpus)


@pytest.mark.parametrize(
    ("workers", "each", "cpus"), [(1, 1.0, 1), (1, 2.0, 2), (3, 2.0, 6), (7, 1.0, 5), (20, 1.0, 2), (300, 1.0, 2)]
)
def test_too_few_cpus(workers: int, each: float, cpus: float) -> None:
    with pytest.raises(UserError, match="for Ray Data") as caught:
        check_cpus(TrainSettings(workers=workers, cpus_per_worker=each), cpus)
    assert caught.value.where == "train.workers"
    advice = re.search(r"--train.cpus-per-worker ([\d.]+)`", caught.value.fix or "")
    if advice:
        check_cpus(TrainSettings(workers=workers, cpus_per_worker=float(advice[1])), cpus)
    else:
        assert (cpus - 1) / workers < 0.01
        assert "--ray.cpus" in (caught.value.fix or "")


def test_batches_that_leave_a_worker_without() -> None:
    check_batch(2, 1, 2)
    check_batch(16, 4, 100)
    with pytest.raises(UserError, match="a batch of 4 is too small for 4 workers") as caught:
        check_batch(4, 4, 100)
    advice = re.search(r"\d+", caught.value.fix or "")
    assert advice
    check_batch(int(advice[0]), 4, 100)
    with pytest.raises(UserError, match="3 training leaves are too few"):
        check_batch(64, 4, 3)
    with pytest.raises(UserError, match="1 training leaves are too few"):
        check_batch(16, 1, 1)


def test_a_crop_that_the_net_does_not_take() -> None:
    check_crop("inception_v3", 75, 75)
    with pytest.raises(UserError, match="inception_v3 does not take images of 74 px") as caught:
        check_crop("inception_v3", 74, 75)
    assert caught.value.fix == "use `--train.crop 75` or more"


def test_places_that_other_nodes_cannot_see() -> None:
    check_places({"--data": "/home/me/leaves"}, nodes=1)
    check_places({"--data": "/mnt/leaves", "--runs": "s3://bucket/runs"}, nodes=3)
    with pytest.raises(UserError, match=r"--runs runs: is a local path, but the cluster has 3 nodes\n.*s3://"):
        check_places({"--data": "s3://bucket/leaves", "--runs": "runs"}, nodes=3)

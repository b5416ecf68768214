"""The parts of training that need no cluster: preflight checks, overrides, checkpoints, progress."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ufgvc.core.errors import UserError
from ufgvc.core.storage import Store, open_store
from ufgvc.methods.recipe import Recipe, Stage
from ufgvc.runtime.resources import Device, TorchDevice, count_slots
from ufgvc.training.checkpoint import FILE, read_checkpoint, remove_orphans, write_checkpoint
from ufgvc.training.preflight import (
    check_batch,
    check_cpus,
    check_crop,
    check_nodes_hold,
    check_places,
    choose_training_device,
)
from ufgvc.training.progress import Follower, epoch_line, read_metrics
from ufgvc.training.settings import TrainSettings, apply_overrides

PUBLISHED = Recipe(stages=(Stage(epochs=300, lr=0.003, step_epochs=60, warmup_epochs=5),), resize=512, crop=448)
STAGED = Recipe(
    stages=(
        Stage(epochs=20, lr=0.1, frozen=("backbone",), schedule="constant"),
        Stage(epochs=80, lr=0.01, schedule="milestones", milestones=(40, 60)),
    )
)


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


def test_nothing_told_changes_nothing() -> None:
    assert apply_overrides(PUBLISHED, TrainSettings()) == PUBLISHED
    assert apply_overrides(STAGED, TrainSettings(epochs=100, learning_rate=0.1)) == STAGED


def test_epochs_scale_what_is_counted_in_epochs() -> None:
    made = apply_overrides(PUBLISHED, TrainSettings(epochs=30)).stages
    assert [(stage.epochs, stage.step_epochs) for stage in made] == [(30, 6)]
    assert made[0].lr == 0.003
    assert apply_overrides(PUBLISHED, TrainSettings(epochs=600)).stages[0].warmup_epochs == 10
    assert apply_overrides(PUBLISHED, TrainSettings(epochs=1)).stages[0].step_epochs == 1
    short = apply_overrides(STAGED, TrainSettings(epochs=10)).stages
    assert [stage.epochs for stage in short] == [2, 8]
    assert short[1].milestones == (4, 6)
    assert (short[0].frozen, short[0].lr, short[1].lr) == (("backbone",), 0.1, 0.01)


@pytest.mark.parametrize("lengths", [(20, 80), (1, 100), (100, 1), (5, 5, 5), (1, 1, 98, 1)])
def test_the_stages_make_up_the_epochs_that_were_asked_for(lengths: tuple[int, ...]) -> None:
    recipe = Recipe(stages=tuple(Stage(epochs=epochs, lr=0.1) for epochs in lengths))
    for epochs in (*range(len(lengths), 30), 1000):
        made = apply_overrides(recipe, TrainSettings(epochs=epochs))
        assert made.epochs == epochs
        assert min(stage.epochs for stage in made.stages) >= 1
    with pytest.raises(UserError, match=f"--train.epochs {len(lengths)}"):
        apply_overrides(recipe, TrainSettings(epochs=len(lengths) - 1))


def test_the_learning_rate_scales_every_stage() -> None:
    made = apply_overrides(STAGED, TrainSettings(learning_rate=0.02)).stages
    assert [stage.lr for stage in made] == pytest.approx([0.02, 0.002])


@pytest.mark.parametrize(
    ("overrides", "crop", "resize"),
    [
        ({"crop": 224}, 224, 256),
        ({"crop": 448}, 448, 512),
        ({"resize": 600}, 448, 600),
        ({"crop": 64, "resize": 64}, 64, 64),
    ],
)
def test_crop_and_resize(overrides: dict[str, int], crop: int, resize: int) -> None:
    made = apply_overrides(PUBLISHED, TrainSettings(**overrides))  # type: ignore[arg-type]
    assert (made.crop, made.resize) == (crop, resize)


@pytest.mark.parametrize("overrides", [{"crop": 300, "resize": 256}, {"resize": 256}])
def test_a_crop_that_does_not_fit(overrides: dict[str, int]) -> None:
    with pytest.raises(UserError, match="does not fit into an image resized to 256 px") as caught:
        apply_overrides(PUBLISHED, TrainSettings(**overrides))  # type: ignore[arg-type]
    assert "`--train.crop 256` or less" in (caught.value.fix or "")
    apply_overrides(PUBLISHED, TrainSettings(crop=256, resize=256))


def row(epoch: int, **more: float) -> dict[str, float]:
    return {
        "epoch": float(epoch),
        "loss": 1.5,
        "loss_classification": 1.25,
        "loss_vein": 0.25,
        "train_accuracy": 0.456,
        "images_per_second": 12.34,
        "data_wait": 0.031,
        "seconds": 2.0,
        **more,
    }


def test_the_line_of_an_epoch() -> None:
    assert epoch_line(row(3), 60, 130.7) == (
        "epoch 3/60  loss 1.5000 (classification 1.2500  vein 0.2500)  train accuracy 45.6 %"
        "  12.3 images/s  3 % waiting for data  2 min to go"
    )
    held = epoch_line(row(60, validation_accuracy=0.5, validation_correct=4.0, validation_leaves=8.0), 60, 0)
    assert "45.6 %  validation 4/8  12.3 images/s" in held
    assert held.endswith("0 s to go")


def write_rows(run: Store, rows: list[dict[str, float]], checkpointed: int) -> None:
    run.write_text("metrics.jsonl", "".join(json.dumps(each) + "\n" for each in rows))
    run.write_json("progress.json", {"checkpointed": checkpointed})


def test_rows_are_passed_on_once_and_only_after_a_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = open_store(tmp_path)
    assert read_metrics(run) == []
    passed: list[float] = []
    follower = Follower(run, 5, on_checkpointed=lambda rows: passed.extend(each["epoch"] for each in rows))
    follower.poll()
    write_rows(run, [row(1), row(2), row(3)], checkpointed=2)
    follower.poll()
    follower.poll()
    assert passed == [1, 2]
    write_rows(run, [row(1), row(2)], checkpointed=2)  # a worker was lost, and its last epoch with it
    follower.poll()
    write_rows(run, [row(1), row(2), row(3), row(4)], checkpointed=4)
    follower.poll()
    assert passed == [1, 2, 3, 4]
    shown = re.findall(r"epoch (\d)/5", capsys.readouterr().err)
    assert shown == ["1", "2", "3", "3", "4"]


def test_storage_that_fails_once_does_not_end_the_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_store(tmp_path)
    passed: list[Any] = []
    monkeypatch.setattr("ufgvc.training.progress.POLL_SECONDS", 0.01)
    reads: list[int] = []
    read_again = threading.Event()

    def flaky(store: Store) -> list[dict[str, float]]:
        reads.append(1)
        if len(reads) == 1:
            raise UserError("the storage server does not answer")
        read_again.set()
        return read_metrics(store)

    follower = Follower(run, 1, on_checkpointed=passed.extend)
    write_rows(run, [row(1)], checkpointed=1)
    monkeypatch.setattr("ufgvc.training.progress.read_metrics", flaky)
    with follower:
        assert read_again.wait(10)
    assert [each["epoch"] for each in passed] == [1]


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    best = {"epoch": 1, "accuracy": 0.5, "net": {name: tensor.clone() for name, tensor in net.state_dict().items()}}
    random = [torch.get_rng_state(), torch.get_rng_state() + 1]
    write_checkpoint(
        tmp_path,
        net=net,
        optimizer=optimizer,
        epoch=2,
        stage=1,
        history=[row(1), row(2)],
        best=best,
        random=random,
        run_id="r",
    )
    drawn = torch.rand(3)
    state = read_checkpoint(tmp_path)
    assert (state["epoch"], state["stage"], state["run_id"], state["history"]) == (2, 1, "r", [row(1), row(2)])
    assert all(torch.equal(state["net"][name], tensor) for name, tensor in net.state_dict().items())
    assert all(torch.equal(state["best"]["net"][name], tensor) for name, tensor in best["net"].items())
    fresh = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    resumed = torch.optim.SGD(fresh.parameters(), lr=0.5)
    fresh.load_state_dict(state["net"])
    resumed.load_state_dict(state["optimizer"])
    assert resumed.param_groups[0]["momentum"] == 0.9
    assert all(
        torch.equal(resumed.state[new]["momentum_buffer"], optimizer.state[old]["momentum_buffer"])
        for new, old in zip(fresh.parameters(), net.parameters(), strict=True)
    )
    torch.set_rng_state(state["random"][0])
    assert torch.equal(torch.rand(3), drawn)


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"net": Evil()}, tmp_path / FILE)
    with pytest.raises(Exception, match="Weights only load failed"):
        read_checkpoint(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_what_a_crash_left_is_removed(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    for name in ("checkpoint_2026-01-01_10-00-00.000001", "checkpoint_2026-01-01_10-00-05.000001"):
        store.write_bytes(f"{name}/{FILE}", b"x")
    store.write_json(
        "checkpoint_manager_snapshot.json", {"checkpoint_results": [{"name": "checkpoint_2026-01-01_10-00-00.000001"}]}
    )
    assert remove_orphans(store) == ["checkpoint_2026-01-01_10-00-05.000001"]
    assert store.list() == [f"checkpoint_2026-01-01_10-00-00.000001/{FILE}", "checkpoint_manager_snapshot.json"]
    assert remove_orphans(store) == []
    store.delete("checkpoint_manager_snapshot.json")
    assert remove_orphans(store) == ["checkpoint_2026-01-01_10-00-00.000001"]
    assert remove_orphans(open_store(tmp_path / "none")) == []

"""What a training writes while it runs: the lines and metrics of its epochs, and checkpoints."""

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
from ufgvc.core.output import Output
from ufgvc.core.storage import Store, open_store
from ufgvc.training.checkpoint import FILE, read_checkpoint, remove_orphans, write_checkpoint
from ufgvc.training.metrics_file import MetricsReader, read_metrics
from ufgvc.training.progress import Follower, epoch_line


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


def test_a_quiet_command_shows_no_epochs_and_passes_them_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = open_store(tmp_path)
    write_rows(run, [row(1), row(2)], checkpointed=2)
    passed: list[dict[str, float]] = []
    for quiet, shown in ((True, 0), (False, 2)):
        with Output(quiet=quiet).while_running():
            follower = Follower(run, 5, on_checkpointed=passed.extend)
            follower.shown = 0
            follower.poll()
        assert capsys.readouterr().err.count("epoch ") == shown
    assert [each["epoch"] for each in passed] == [1, 2, 1, 2]


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

    read = MetricsReader.read

    def flaky(reader: MetricsReader) -> list[dict[str, float]]:
        reads.append(1)
        if len(reads) == 1:
            raise UserError("the storage server does not answer")
        read_again.set()
        return read(reader)

    follower = Follower(run, 1, on_checkpointed=passed.extend)
    write_rows(run, [row(1)], checkpointed=1)
    monkeypatch.setattr(MetricsReader, "read", flaky)
    with follower:
        assert read_again.wait(10)
    assert [each["epoch"] for each in passed] == [1]


def test_a_training_in_this_process_is_followed_without_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, sent = open_store(tmp_path), threading.Event()
    passed: list[float] = []
    write_rows(run, [row(1), row(2), row(3)], checkpointed=1)  # of a process that was killed in epoch 4

    def keep(rows: list[dict[str, float]]) -> None:
        passed.extend(each["epoch"] for each in rows)
        sent.set()

    follower = Follower(run, 4, keep, polls=False)
    monkeypatch.setattr(MetricsReader, "read", lambda reader: pytest.fail("nothing needs to be read"))
    history = [row(1)]
    with follower:
        for epoch in (2, 3):
            history.append(row(epoch))
            follower.update(history, None)
        follower.update(history, 3)
        assert sent.wait(10)
        assert passed == [1, 2, 3]
        history.append(row(4))
        follower.update(history, None)
        follower.update(history, 4)
    assert passed == [1, 2, 3, 4]
    assert re.findall(r"epoch (\d)/4", capsys.readouterr().err) == ["2", "3", "4"]


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
    )
    drawn = torch.rand(3)
    state = read_checkpoint(tmp_path)
    assert (state["epoch"], state["stage"], state["history"]) == (2, 1, [row(1), row(2)])
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

"""Which failures of training workers are caused by a lost machine. Losing one is tested in tests/integration."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest

os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")

from ray.core.generated.common_pb2 import NodeDeathInfo
from ray.train import FailureConfig, PreemptionError

from ufgvc.core.errors import UserError
from ufgvc.experiments.settings import SearchSettings, TrialSettings
from ufgvc.training.controller import IDLE, StopOnUserError, lost_nodes
from ufgvc.training.settings import TrainSettings

BROKEN = {0: RuntimeError("Connection closed by peer")}


def node(name: str, alive: bool = True, reason: int = 0) -> dict[str, Any]:
    return {"NodeID": name, "Alive": alive, "DeathReason": reason}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> list[list[dict[str, Any]]]:
    """What Ray says of its nodes, one answer after another; the last one stays."""
    answers: list[list[dict[str, Any]]] = []
    monkeypatch.setattr("ray.nodes", lambda: answers.pop(0) if len(answers) > 1 else answers[0])
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    return answers


def test_a_failure_with_which_a_node_was_lost_is_not_counted_and_the_next_one_is(cluster: list[Any]) -> None:
    cluster += [[node("a"), node("b")]] * 3 + [[node("a"), node("b", False, 2)]]  # Ray needs a while to notice
    watch = StopOnUserError()
    with pytest.raises(PreemptionError) as caught:
        watch.after_exception(None, BROKEN)
    assert caught.value.preemption_info.preempted_node_ids == ["b"]
    watch.after_exception(None, BROKEN)  # nothing is raised: Ray counts it
    cluster[:] = [[node("a"), node("b", False, 2), node("c", False, 1)]]  # another spot machine, ended by a signal
    with pytest.raises(PreemptionError):
        watch.after_exception(None, BROKEN)


def test_what_is_no_loss(cluster: list[Any]) -> None:
    before = lost_nodes([node("a"), node("b", False, 2), node("c", False, IDLE)])
    assert before == {"b"}
    cluster += [[node("a"), node("b", False, 2), node("c", False, IDLE), node("d", False, IDLE)]]
    StopOnUserError(lost=before).after_exception(None, BROKEN)
    assert IDLE == NodeDeathInfo.AUTOSCALER_DRAIN_IDLE


def test_a_mistake_ends_the_training_whatever_was_lost(cluster: list[Any]) -> None:
    cluster += [[node("a"), node("b", False, 2)]]
    with pytest.raises(UserError, match="too large"):
        StopOnUserError().after_exception(None, {1: UserError("too large"), **BROKEN})


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOMEM, "Cannot allocate memory"), RuntimeError("can't start new thread")]
)
def test_a_machine_without_memory_or_threads_is_tried_again(cluster: list[Any], error: Exception) -> None:
    cluster += [[node("a")]]
    StopOnUserError("s3://bucket/checkpoints").after_exception(None, {0: error})
    with pytest.raises(UserError, match="no space"):
        StopOnUserError("s3://bucket/checkpoints").after_exception(None, {0: OSError(errno.ENOSPC, "full")})


def test_the_wait_for_a_lost_node_is_bounded(cluster: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    cluster += [[node("a"), node("b")]]
    ticks = iter(range(100))
    monkeypatch.setattr("time.monotonic", lambda: float(next(ticks)))
    StopOnUserError(noticed_seconds=5).after_exception(None, BROKEN)
    assert next(ticks) < 10


@pytest.mark.parametrize("settings", [TrainSettings, TrialSettings, SearchSettings])
def test_failures_without_end(settings: Any) -> None:
    assert settings(max_failures=-1).max_failures == -1
    with pytest.raises(ValueError):
        settings(max_failures=-2)


def test_rays_own_count_of_lost_nodes_has_no_limit() -> None:
    assert FailureConfig(max_failures=0).max_preemption_failures == -1

"""What is left out of Ray Train's start, and that the names by which it is left out are those of the installed Ray."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from typing import Any

import pytest

os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")

import ray
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer

from ufgvc.training.controller import ProcessGroupConfig
from ufgvc.training.distributed import LeanTrainer

TRAINER = {"torch_config": ProcessGroupConfig("gloo"), "scaling_config": ScalingConfig(num_workers=2)}


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What Ray Train would give to the controller of a run."""
    given: list[dict[str, Any]] = []

    def catch(self: TorchTrainer, **parts: Any) -> Any:
        given.append(parts)
        return type("Result", (), {"error": None})()

    monkeypatch.setattr(ray, "put", lambda value: None)
    monkeypatch.setattr(TorchTrainer, "_initialize_and_run_controller", catch)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: type("Context", (), {"get_actor_id": lambda self: None})())
    return given


@pytest.mark.parametrize("is_local", [False, True])
def test_helpers_that_nothing_needs_are_left_out(
    submitted: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, is_local: bool
) -> None:
    monkeypatch.setattr("ufgvc.training.distributed.in_local_session", lambda: is_local)
    for kind in (TorchTrainer, LeanTrainer):
        kind(print, **TRAINER).fit()
    full, lean = ({type(each).__name__ for each in parts["callbacks"]} for parts in submitted)
    assert full - lean == {"DatasetsCallback", "PlacementGroupCleanerCallback"}
    policy = pickle.loads(pickle.dumps(submitted[1]["scaling_policy"]))
    assert callable(type(policy)._send_resource_request)
    assert ("_send_resource_request" in vars(policy)) == is_local


def test_a_trial_keeps_the_process_that_frees_its_slots(
    submitted: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "get_runtime_context", lambda: type("Context", (), {"get_actor_id": lambda self: "a1"})())
    LeanTrainer(print, **TRAINER).fit()
    assert "PlacementGroupCleanerCallback" in {type(each).__name__ for each in submitted[0]["callbacks"]}


def test_parts_of_other_names_are_left_as_they_are(submitted: list[dict[str, Any]]) -> None:
    LeanTrainer(print, **TRAINER)._initialize_and_run_controller(hooks=[1], policy=2)
    assert submitted == [{"hooks": [1], "policy": 2}]


def test_the_controller_imports_no_torch(submitted: list[dict[str, Any]]) -> None:
    LeanTrainer(print, **TRAINER).fit()
    parts = {name: part for name, part in submitted[0].items() if name != "train_fn_ref"}
    program = "import pickle, sys; pickle.load(sys.stdin.buffer); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], input=ray.cloudpickle.dumps(parts), capture_output=True, check=True
    )
    assert done.stdout.split() == [b"False"]

"""Out-of-memory errors become one message; GPU errors are raised by the tests themselves."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch

from ufgvc.core.errors import UserError
from ufgvc.methods import build
from ufgvc.methods.recipe import Recipe, Stage
from ufgvc.training.memory import enough_memory, memory_for_batches, memory_for_scores

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried"), RuntimeError("CUDA error: out of memory\nCUDA kernel")],
)
def test_out_of_memory_names_the_batch_and_the_remedy(error: RuntimeError) -> None:
    recipe = Recipe(stages=(Stage(epochs=1, lr=0.1),), batch_size=64, resize=512, crop=448)
    with pytest.raises(UserError) as caught, memory_for_batches(recipe, 2, True, CPU):
        raise error
    text = str(caught.value)
    for part in (
        "train.batch_size: ",
        "64 images of 448 px",
        "32 of them on each of 2 workers",
        "--train.batch-size 32",
        "--train.cache host",
    ):
        assert part in text, text


def test_the_remedy_names_a_cache_only_where_it_is_on_the_device() -> None:
    recipe = Recipe(stages=(Stage(epochs=1, lr=0.1),), batch_size=64, resize=512, crop=448)
    with pytest.raises(UserError) as caught, memory_for_batches(recipe, 1, False, CPU):
        raise torch.OutOfMemoryError("CUDA out of memory.")
    assert "cache" not in str(caught.value)
    assert "worker" not in str(caught.value)


def test_a_real_allocation_that_fails_is_told_too() -> None:
    with pytest.raises(UserError, match="does not fit into this machine's memory"):
        with enough_memory("a petabyte", "nowhere", "ask for less", CPU):
            torch.empty(1 << 50)


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes") as caught, memory_for_scores(8, {"size": 64}, CPU):
        raise RuntimeError("shapes do not match")
    assert not isinstance(caught.value, UserError)


def test_what_failed_holds_no_tensor_any_more() -> None:
    kept: list[weakref.ref[torch.Tensor]] = []

    def fail() -> None:
        large = torch.zeros(3)
        kept.append(weakref.ref(large))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(UserError) as caught, memory_for_scores(8, {"size": 64}, CPU):
        fail()
    gc.collect()
    assert caught.value.what
    assert kept[0]() is None


def test_scoring_tells_its_own_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    from ufgvc.models.model import LoadedModel

    method = build("resnet50", num_classes=2, backbone="shufflenet_v2_x0_5")
    model = LoadedModel(method, ("a", "b"), {"resize": 64, "size": 64}, {})

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(method.net.backbone, "forward", fail)
    with (
        pytest.raises(UserError, match="a batch of 1 images of 64 px"),
        memory_for_scores(1, model.input, model.device),
    ):
        model.score([np.zeros((64, 64, 3), np.uint8)])

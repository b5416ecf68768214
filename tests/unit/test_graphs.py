"""When a training captures its steps, and the tensors that a captured step reads (tests/gpu/test_graphs.py
captures).
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, ClassVar, Literal
from unittest.mock import MagicMock

import pytest
import torch

from ufgvc.core.errors import UserError
from ufgvc.methods.method import Batch
from ufgvc.methods.plugins import Package
from ufgvc.training.graphs import MIN_STEPS, StepGraphs, capturable, tensors_of, use_graphs, with_tensors
from ufgvc.training.settings import TrainSettings

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")


@pytest.mark.parametrize(
    ("wanted", "steps", "world", "device", "used"),
    [
        ("auto", MIN_STEPS, 1, GPU, True),
        ("auto", MIN_STEPS - 1, 1, GPU, False),
        ("on", 1, 1, GPU, True),
        ("off", 10_000, 1, GPU, False),
        ("auto", 10_000, 2, GPU, False),
        ("on", 10_000, 2, GPU, False),
        ("on", 10_000, 1, CPU, False),
    ],
)
def test_one_rank_on_a_gpu_with_enough_steps(
    wanted: Literal["auto", "on", "off"], steps: int, world: int, device: torch.device, used: bool
) -> None:
    assert use_graphs(wanted, "mask_guided", steps, world, device) is used


def test_a_method_of_another_package_is_captured_if_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ufgvc.training.graphs.package_of", lambda method: Package("theirs", "1.0"))
    assert not use_graphs("auto", "their_method", MIN_STEPS, 1, GPU)
    assert use_graphs("on", "their_method", MIN_STEPS, 1, GPU)


def test_what_cannot_be_captured_is_one_message() -> None:
    with (
        pytest.raises(UserError, match=r"cannot be captured .*: no such operation") as caught,
        capturable(),
    ):
        raise RuntimeError("no such operation\nCompile with TORCH_USE_CUDA_DSA")
    assert "--train.cuda-graphs off" in str(caught.value)
    with pytest.raises(torch.OutOfMemoryError), capturable():
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("soft", [False, True])
def test_every_tensor_of_a_batch_is_read_from_the_inputs(soft: bool) -> None:
    """All fields but the random numbers of the views, which are used up before the capture."""
    random = torch.Generator().manual_seed(0)
    masks = {region: torch.rand(2, 1, 4, 4, generator=random) for region in ("vein", "contour")}
    batch = Batch(
        images=torch.rand(2, 3, 4, 4, generator=random).contiguous(memory_format=torch.channels_last),
        labels=torch.tensor([1, 0]),
        masks=masks,
        has_mask={region: torch.tensor([True, False]) for region in masks},
        targets=torch.rand(2, 5, generator=random) if soft else None,
        extra={"order": torch.arange(4)},
    )
    found = tensors_of(batch)
    assert len(found) == 7 + soft
    other = with_tensors(batch, {name: tensor.clone() for name, tensor in found.items()})
    assert other.images.is_contiguous(memory_format=torch.channels_last)
    again = tensors_of(other)
    assert again.keys() == found.keys()
    for name, tensor in found.items():
        assert torch.equal(again[name], tensor)
        assert again[name].data_ptr() != tensor.data_ptr(), f"{name} is still the batch's own"
    known = {"images", "labels", "masks", "has_mask", "targets", "extra", "uniforms", "sum_over_ranks"}
    assert {field.name for field in fields(Batch)} == known, "a new field: is it an input of a captured step?"


def test_runs_of_before_keep_their_key() -> None:
    assert "cuda_graphs" not in TrainSettings().result_affecting()
    assert TrainSettings(cuda_graphs="off").result_affecting()["cuda_graphs"] == "off"


def test_the_first_error_of_a_capture_is_the_one_told() -> None:
    """The end of a capture that failed raises an error of its own."""

    def end_of_capture(first: RuntimeError) -> None:
        try:
            raise first
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    with pytest.raises(UserError, match=r"cannot be captured .*: no such operation"), capturable():
        end_of_capture(RuntimeError("no such operation"))
    for error in (torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: out of memory")):
        with pytest.raises(RuntimeError, match="out of memory"), capturable():
            end_of_capture(error)


class Graph:
    """Stands for a CUDA graph, with torch's rule for a pool: it may be shared while a graph uses it, not afterwards."""

    users: ClassVar[Counter[int | None]] = Counter()
    handles: ClassVar[Iterator[int]] = itertools.count(1)

    def pool(self) -> int:
        return self.number

    @contextlib.contextmanager
    def capture(self, pool: int | None) -> Iterator[None]:
        assert pool not in self.users or self.users[pool] > 0, "it->second->use_count > 0 INTERNAL ASSERT FAILED"
        self.number = next(self.handles) if pool is None else pool
        self.users[self.number] += 1
        weakref.finalize(self, self.users.subtract, [self.number])
        yield

    def replay(self) -> None:
        pass


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a capture asks of torch.cuda, on tensors of the CPU."""
    fakes: dict[str, Any] = {
        "CUDAGraph": Graph,
        "graph": lambda graph, pool=None: graph.capture(pool),
        "graph_pool_handle": lambda: next(Graph.handles),
        "Stream": MagicMock(),
        "current_stream": MagicMock(),
        "stream": contextlib.nullcontext,
        "device": contextlib.nullcontext,
        "get_rng_state": lambda device: torch.zeros(1),
        "set_rng_state": lambda state, device: None,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)


def captured(graphs: StepGraphs, count: int) -> Any:
    """Takes a step on a batch of that many images; the pool of its graph."""
    graphs(Batch(torch.ones(count, 3, 2, 2), torch.zeros(count, dtype=torch.int64)))
    return max(capture.graph.pool() for capture in graphs.captures.values())


@pytest.mark.usefixtures("fake_cuda")
def test_a_training_captures_also_after_those_of_before_are_gone() -> None:
    """As the folds of a search, the stages of a recipe, and the next training of the same process do."""

    def graphs() -> StepGraphs:
        net = torch.nn.Linear(3, 2)
        return StepGraphs(net, lambda batch: (net(batch.images.mean((2, 3))).sum().backward(), batch.labels.sum()))  # type: ignore[func-returns-value, arg-type, return-value]

    first, second = graphs(), graphs()
    pools = {captured(first, 4), captured(second, 4), captured(first, 3)}
    assert len(pools) == 1, "captures that live at the same time do not share their memory"
    del first
    assert captured(graphs(), 4) in pools
    del second
    gc.collect()
    assert captured(graphs(), 4) not in pools

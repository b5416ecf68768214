"""No step of a training on a GPU waits for it. Told without one: fake tensors on "cuda" run the real steps, and each
wait is listed.

A read of a number on the host, a shape that depends on numbers, and a copy to or from the host that is not asked for
behind the
work that waits there: the same that `torch.cuda.set_sync_debug_mode` finds on a GPU (tests/gpu/test_no_sync.py). Only
the backward pass is left out, for torch's engine asks the driver about its streams; nothing in it is ours.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.unit.test_methods import CLASSES, small, smallest
from ufgvc.core.region_names import PAPER_REGIONS
from ufgvc.data.cache import CachedSource, DecodedSplit, copy_to_device
from ufgvc.data.transfer import to_device
from ufgvc.methods import Method, Recipe, Stage, names
from ufgvc.methods.leaf_traits import CumulativeBatchNorm
from ufgvc.methods.modern import modernise
from ufgvc.training.average import WeightAverage
from ufgvc.training.loader import BatchLoader
from ufgvc.training.optim import make_optimizer
from ufgvc.training.settings import TrainSettings
from ufgvc.training.steps import train_step

aten = torch.ops.aten
GPU = torch.device("cuda", 0)
READS = {aten._local_scalar_dense.default: 1, aten.equal.default: True}
ANCHORS_PER_CELL = {
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.repeat_interleave.Tensor,
}
SOURCES = Path(__file__).parents[2] / "ufgvc"


class Waits(TorchDispatchMode):
    """Lists what a GPU would be waited for.  found: what it was, and the line of ours that did it."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.pinned: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten.is_pinned.default:
            return any(args[0] is tensor for tensor in self.pinned)
        if func is aten._pin_memory.default:
            self.pinned.append(args[0].clone())  # fake tensors know no page-locked memory
            return self.pinned[-1]
        there = [tensor for tensor in args if isinstance(tensor, Tensor) and tensor.device.type == "cuda"]
        if func in READS and there:
            self._note(f"reads a number ({func})")
            return READS[func]
        if func in ANCHORS_PER_CELL and there:
            self._note(f"a shape that depends on numbers ({func})")
        if func is aten.index.Tensor and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        ):
            self._note("a mask as an index")
        result = func(*args, **kwargs)
        if func is aten._to_copy.default:
            self._copy(args[0], result, bool(kwargs.get("non_blocking")))
        elif func is aten.copy_.default:
            self._copy(args[1], args[0], bool(kwargs.get("non_blocking", len(args) > 2 and args[2])))
        return result

    def _copy(self, source: Tensor, target: Tensor, behind: bool) -> None:
        if source.device.type == target.device.type:
            return
        if not behind:
            self._note(f"a copy from {source.device.type} to {target.device.type}")
        elif source.device.type == "cpu" and not any(source is tensor for tensor in self.pinned):
            self._note("a copy from memory that is not page-locked")

    def _note(self, what: str) -> None:
        ours = [frame for frame in traceback.extract_stack() if Path(frame.filename).is_relative_to(SOURCES)]
        place = f"{Path(ours[-1].filename).relative_to(SOURCES)}:{ours[-1].lineno}" if ours else "torch"
        self.found.append(f"{place}: {what}")


@contextmanager
def fake_gpu() -> Iterator[Waits]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # autocast says that there is no CUDA
        # Without cuDNN, whose grid_sample knows no fake tensors.
        with torch.backends.cudnn.flags(enabled=False), FakeTensorMode(allow_non_fake_inputs=True), Waits() as waits:
            yield waits


def move(net: nn.Module) -> None:
    """Every parameter and buffer as a fake one on the GPU; `Module.to` cannot do that."""
    for module in net.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(
                    torch.empty_like(parameter, device=GPU), requires_grad=parameter.requires_grad
                )
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.zeros_like(buffer, device=GPU)


def feed_of(method: Method, resident: bool, rotate: float, side: int) -> BatchLoader:
    """8 leaves of side + 8 px with packed masks, in batches of 4."""
    random, full = np.random.default_rng(0), side + 8
    images = random.integers(0, 255, (8, full, full, 3), dtype=np.uint8)
    bits = {region: random.integers(0, 255, (8, full, (full + 7) // 8), dtype=np.uint8) for region in PAPER_REGIONS}
    data = DecodedSplit(images, bits, {region: np.ones(8, bool) for region in PAPER_REGIONS})
    labels = np.arange(8, dtype=np.int64) % CLASSES
    recipe = method.recipe.model_copy(update={"resize": full, "crop": side, "rotate": rotate, "batch_size": 4})
    held = copy_to_device(data, labels, GPU) if resident else None
    source = CachedSource(data, labels, np.arange(8), 4, 0, 0, 1, GPU, held)
    config: Any = type("Config", (), {"seed": 0, "train": TrainSettings()})
    keys = np.arange(8, dtype=np.uint64)
    rows = (np.arange(8), labels, [None] * 8)
    return BatchLoader(config, recipe, source, keys, *rows, 0, None, np.arange(0), labels, GPU, method.num_uniforms)


def give_gradients(net: nn.Module) -> None:
    for parameter in net.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)


def waits_of_an_epoch(
    monkeypatch: pytest.MonkeyPatch,
    method: Method,
    resident: bool = True,
    rotate: float = 15.0,
    recipe: Callable[[Recipe], Recipe] = lambda published: published,
) -> list[str]:
    side = max(64, method.min_side)
    with fake_gpu() as waits:
        move(method.net)
        method.net.train()
        stage = Stage(epochs=1, lr=0.1, weight_decay=1e-4)
        feed = feed_of(method, resident, rotate, side)
        feed = replace(feed, recipe=recipe(feed.recipe), num_classes=CLASSES)
        modern = feed.recipe.ema_decay > 0
        optimizer = make_optimizer(method, feed.recipe.stages[-1] if modern else stage)
        average = WeightAverage(method.net, 0.9)
        monkeypatch.setattr(Tensor, "backward", lambda loss: give_gradients(method.net))
        waits.found.clear()
        steps = 0
        for batch in feed.training(0):
            assert batch.images.device == GPU
            train_step(method, method.net, batch, optimizer)
            if modern:
                average.update(method.net)
            steps += 1
    assert steps == 2
    return waits.found


@pytest.fixture(autouse=True)
def _no_question_about_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ufgvc.training.steps.choose_precision", lambda wanted, device: "fp32")
    # Fake tensors have no fused optimizer.
    monkeypatch.setattr("ufgvc.training.optim.has_fused_kernels", lambda net: None)


@pytest.mark.parametrize("resident", [True, False])
def test_no_modern_training_waits_for_the_gpu(resident: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    found = waits_of_an_epoch(monkeypatch, small("mask_guided"), resident, recipe=modernise)
    assert not found, "\n".join(found)


# Fake tensors of 94 convolutions take four seconds; tests/gpu has this network too.
SLOW = {"inception_v3": [pytest.mark.slow]}


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, [])) for name in names()])
def test_no_method_waits_for_the_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = waits_of_an_epoch(monkeypatch, smallest(name))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("resident", "rotate"), [(True, 0.0), (False, 0.0), (False, 15.0)])
def test_no_feed_waits_for_the_gpu(resident: bool, rotate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    found = waits_of_an_epoch(monkeypatch, smallest("mask_guided"), resident, rotate)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dcl", {"shuffle": "coded", "adversary": "binary", "location_targets": "matched"}),
        ("mask_guided", {"activation": "softmax_peak", "control": {"guide": "shuffled"}}),
        ("mask_guided", {"control": {"statistics": "all", "guide": "centre"}}),
        ("region_tokens", {"head": "linear"}),
        ("leaf_traits", {"traits": ("colour",)}),
    ],
)
def test_no_option_waits_for_the_gpu(name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    found = waits_of_an_epoch(monkeypatch, smallest(name, **options))
    assert not found, "\n".join(found)


def test_the_watch_sees_what_waits() -> None:
    """The watch itself, on one thing of each kind."""
    with fake_gpu() as waits:
        there = torch.ones(3, device=GPU)
        to_device(torch.ones(3), GPU)
        torch.where(there > 0, there, 0.0).sum()
        assert waits.found == []
        for wait in (
            lambda: float(there.sum()),
            lambda: there.sum().item(),
            lambda: there.cpu(),
            lambda: torch.tensor(3.0, device=GPU),
            lambda: there.new_tensor(3.0),
            lambda: torch.ones(3).to(GPU),
            lambda: torch.ones(3).to(GPU, non_blocking=True),
            lambda: there.copy_(torch.ones(3)),
        ):
            waits.found.clear()
            wait()
            assert len(waits.found) == 1, waits.found
        waits.found.clear()
        with pytest.raises(Exception, match="nonzero"):
            there[there > 0]
        assert waits.found


def test_the_average_norm_of_a_gpu_is_the_one_of_the_cpu() -> None:
    """Both ways on the CPU, over seven batches whose mean drifts."""
    torch.manual_seed(0)
    ours, torchs = CumulativeBatchNorm(6), CumulativeBatchNorm(6)
    for step in range(7):
        values = torch.randn(5, 6) * 3 + step
        assert torch.allclose(ours.normalise_without_sync(values), torchs(values), atol=1e-5)
    assert ours.num_batches_tracked == torchs.num_batches_tracked == 7
    for name in ("running_mean", "running_var"):
        assert torch.allclose(getattr(ours, name), getattr(torchs, name), rtol=1e-5), name
    assert torch.allclose(ours.eval()(values), torchs.eval()(values), atol=1e-5)
    assert ours.state_dict().keys() == nn.BatchNorm1d(6, momentum=None, affine=False).state_dict().keys()

"""A step captured as a CUDA graph computes what the step itself computes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.gpu.parts import TRAINED, make_worker, move, noise_batch, on, small
from tests.gpu.test_epochs import waiting
from ufgvc.methods import Batch, Method
from ufgvc.training.graphs import ComputeGradients, StepGraphs
from ufgvc.training.optim import train_mode
from ufgvc.training.steps import compute_gradients, train_step

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _the_same_algorithms(same_sums: None) -> None:
    """So that a pass differs from itself by nothing but the order of atomic additions."""
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True


def batches_of(method: Method, device: torch.device, counts: tuple[int, ...]) -> list[Batch]:
    """Batches of noise with the method's views."""
    plain = [move(noise_batch(method, count, seed), device) for seed, count in enumerate(counts)]
    return [method.views(batch) for batch in plain]


def passes(
    method: Method, batches: list[Batch], captured: bool
) -> tuple[list[dict[str, float]], list[Tensor], list[Tensor]]:
    """Losses and the flat gradient of each batch, and the buffers of the net after them."""
    method.net.train()
    plain = partial(compute_gradients, method, method.net)
    compute: ComputeGradients = StepGraphs(method.net, plain) if captured else plain
    losses, gradients = [], []
    for batch in batches:
        method.net.zero_grad(set_to_none=True)
        parts, correct = compute(batch)
        losses.append({name: float(total / count) for name, (total, count) in parts.items()})
        losses[-1]["correct"] = float(correct)
        grads = [parameter.grad for parameter in method.net.parameters() if parameter.grad is not None]
        gradients.append(torch.cat([grad.detach().double().flatten() for grad in grads]))
    return losses, gradients, [buffer.double() for buffer in method.net.buffers()]


@pytest.mark.usefixtures("exact_float32")
@pytest.mark.parametrize("name", TRAINED)
def test_a_replay_gives_the_gradients_of_its_batch(name: str, cuda: torch.device) -> None:
    """Also of the second batch of that shape, and of a smaller one; BatchNorm's statistics count each batch once."""
    plain = small(name, dropout=False)
    batches = batches_of(plain, cuda, (8, 8, 6, 8))
    wanted, found = (passes(on(plain, cuda), batches, captured) for captured in (False, True))
    for place, (one, other) in enumerate(zip(found[0], wanted[0], strict=True)):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6), f"losses of batch {place}"
    for place, (gradient, wish) in enumerate(zip(found[1], wanted[1], strict=True)):
        gap = float((gradient - wish).norm() / wish.norm())
        # Badly conditioned heads enlarge what atomic additions change (tests/gpu/test_gradients.py).
        assert gap < 1e-2, f"the gradient of batch {place} differs by {gap:.1e} of its length"
    for buffer, wish in zip(found[2], wanted[2], strict=True):
        assert torch.allclose(buffer, wish, rtol=1e-4, atol=1e-5)


def test_dropout_draws_anew_in_each_replay(cuda: torch.device) -> None:
    """And the same numbers again from the same seed, also if the step is captured in between."""
    method = on(small("vgg16"), cuda)
    assert any(isinstance(layer, nn.Dropout) and layer.p > 0 for layer in method.net.modules())
    batch = batches_of(method, cuda, (8,))[0]
    method.net.train()
    graphs = StepGraphs(method.net, partial(compute_gradients, method, method.net))

    def loss() -> float:
        total, count = graphs(batch)[0]["classification"]
        return float(total / count)

    torch.cuda.manual_seed_all(3)
    first = [loss() for _ in range(3)]  # captures before the first of them
    torch.cuda.manual_seed_all(3)
    again = [loss() for _ in range(3)]
    assert first == pytest.approx(again, rel=1e-6)
    assert len({round(each, 6) for each in first}) == 3


@pytest.mark.parametrize("name", TRAINED)
def test_an_epoch_of_replays(name: str, leaves: str, tmp_path: Path, cuda: torch.device) -> None:
    """Two epochs of a worker's steps: captured in the first, without a wait for the GPU in the second, and the
    optimizer moves the weights.
    """
    worker = make_worker(leaves, tmp_path, name, cuda, cuda_graphs="on")
    graphs = worker.graphs
    assert graphs is not None
    train_mode(worker.method, worker.model, worker.recipe.stages[0])
    parameters = [parameter for parameter in worker.method.net.parameters() if parameter.requires_grad]
    before = [parameter.detach().clone() for parameter in parameters]

    def steps(epoch: int) -> None:
        for batch in worker.loader.training(epoch):
            train_step(worker.method, worker.model, batch, worker.optimizer, worker.precision, graphs=graphs)

    steps(0)
    assert len(graphs.captures) == 1
    with waiting(cuda, "error"):
        steps(1)
    assert len(graphs.captures) == 1
    assert all(parameter.isfinite().all() for parameter in parameters)
    assert sum(not torch.equal(old, new) for old, new in zip(before, parameters, strict=True)) > len(before) / 2


def test_a_compiled_net_is_captured(cuda: torch.device) -> None:
    method = on(small("mask_guided"), cuda)
    compiled = on(small("mask_guided"), cuda)
    model: Any = torch.compile(compiled.net.train(), dynamic=False)
    graphs = StepGraphs(compiled.net, partial(compute_gradients, compiled, model, precision="bf16"))
    method.net.train()
    for batch in batches_of(method, cuda, (8, 8)):
        method.net.zero_grad(set_to_none=True)
        wanted, _ = compute_gradients(method, method.net, batch, "bf16")
        found, _ = graphs(batch)
        for part, (total, count) in wanted.items():
            assert float(found[part][0] / found[part][1]) == pytest.approx(float(total / count), rel=5e-2), part


def test_a_training_captures_after_the_first_one_is_gone(cuda: torch.device) -> None:
    """As folds, stages and trials of one process do: torch refuses the memory of graphs that are gone."""
    gradients = []
    for _ in range(3):
        method = on(small("mask_guided", dropout=False), cuda)
        gradients.append(passes(method, batches_of(method, cuda, (8, 6)), captured=True)[1])
        del method
    for place in range(2):
        assert float((gradients[2][place] - gradients[0][place]).norm() / gradients[0][place].norm()) < 1e-2

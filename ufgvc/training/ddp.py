"""How a rank runs its network: behind DDP, compiled, and by which of cuDNN's algorithms."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ufgvc.data.stream import num_batches
from ufgvc.methods.recipe import Recipe
from ufgvc.training.loader import WorkerConfig

# Steps of a training from which cuDNN's search for the fastest algorithms is worth its time. It searches anew for every batch size: on
# an H200 twelve trainings of 300 to 400 steps side by side waited for it some 50 s a size, longer than for all of their steps.
SEARCHED_STEPS = 2000


def searches_algorithms(recipe: Recipe, rows: int, device: torch.device) -> bool:
    """Whether cuDNN is to try which algorithms are fastest, for a training on `rows` leaves."""
    return device.type == "cuda" and recipe.epochs * num_batches(rows, recipe.batch_size) >= SEARCHED_STEPS


def wrap_ddp(net: nn.Module, plan: WorkerConfig, world: int, device: torch.device) -> nn.Module:
    """The network behind DDP, where there are several ranks, and compiled, where the plan says so."""
    if plan.sync_batchnorm and world > 1 and device.type == "cuda":
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    model: nn.Module = net
    if world > 1:
        model = nn.parallel.DistributedDataParallel(net, device_ids=[device] if device.type == "cuda" else None)
    return torch.compile(model) if plan.compile else model  # type: ignore[return-value]


def warm_up_ddp_buckets(model: nn.Module, net: nn.Module, side: int, device: torch.device) -> None:
    """DDP orders its buckets anew after its first backward pass, and from three ranks on another order sums in another order.

    One pass whose effect is undone puts a fresh start and a resumed one in the same state, so that both give the same numbers.
    """
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    model.train()
    for _ in range(2):
        images = torch.zeros(2, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
        outputs = model(images)
        sums = [value.float().sum() for value in outputs.values() if isinstance(value, Tensor) and value.requires_grad]
        sum(sums, start=torch.zeros((), device=device)).backward()
        model.zero_grad(set_to_none=True)
    with torch.no_grad():
        for name, buffer in net.named_buffers():
            buffer.copy_(buffers[name])

"""Data-parallel training with torch.distributed: the wrapped network, and collective operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ufgvc.training.settings import TrainSettings


@dataclass(frozen=True)
class Ranks:
    """This process among the training workers.  rank: 0 to world_size - 1.  device: of this rank."""

    rank: int
    world_size: int
    device: torch.device

    def sum(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(value)
        return value

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, on every rank."""
        gathered = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(gathered, value)
        return gathered

    def broadcast_flag(self, flag: bool) -> bool:
        """Rank 0's flag, on every rank."""
        if self.world_size == 1:
            return flag
        tensor = torch.tensor([float(flag)], device=self.device)
        dist.broadcast(tensor, 0)
        return bool(tensor.item())


def wrap_ddp(net: nn.Module, settings: TrainSettings, ranks: Ranks) -> nn.Module:
    """The network with SyncBatchNorm, DDP (for several ranks) and torch.compile, as the settings say."""
    several, cuda = ranks.world_size > 1, ranks.device.type == "cuda"
    if settings.sync_batchnorm and several and cuda:
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    model: nn.Module = net
    if several:
        model = nn.parallel.DistributedDataParallel(net, device_ids=[ranks.device] if cuda else None)
    return torch.compile(model, dynamic=False) if settings.compile else model  # type: ignore[return-value]


def warm_up_ddp_buckets(model: nn.Module, net: nn.Module, side: int, device: torch.device) -> None:
    """Runs two backward passes without effect, after which DDP's gradient buckets keep their order.

    DDP reorders its buckets after its first backward pass, and with three ranks or more another order gives other sums.
    After this, a new and a resumed training give the same numbers.
    side: of the images in pixels.  Buffers (BatchNorm statistics) are restored, gradients deleted.
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

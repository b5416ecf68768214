"""Chooses how many CPU threads a training step uses: a small network is slower with several than with one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

# In a layer, for each thread. At 7 and 12 millions a second thread made a step 1.6 and 1.15 times as slow, at 21 and
# more it was faster (docs/results/speed.md): threads wait for each other at the end of every layer.
MULTIPLICATIONS_PER_THREAD = 10e6


def choose_threads(net: nn.Module, side: int, batch_size: int, cores: int) -> int:
    """CPU threads for training steps, from 1 to `cores`, by the size of the network's layers.

    Leaves the network in evaluation mode.  side: of the images in pixels.  batch_size: of this process.
    """
    return max(1, min(cores, int(batch_size * multiplications_per_layer(net, side) / MULTIPLICATIONS_PER_THREAD)))


def multiplications_per_layer(net: nn.Module, side: int) -> float:
    """Mean of the multiplications for an image in a call of a convolution or linear layer; 0 if there is none."""
    counts: list[int] = []

    def count(layer: nn.Conv2d | nn.Linear, _: tuple[Tensor, ...], output: Tensor) -> None:
        counts.append(output.numel() * layer.weight[0].numel())

    layers = [each for each in net.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    hooks = [each.register_forward_hook(count) for each in layers]
    try:
        with torch.no_grad():  # not inference mode: what a network keeps for later is trained with
            net.eval()(torch.zeros(1, 3, side, side).contiguous(memory_format=torch.channels_last))
    finally:
        for hook in hooks:
            hook.remove()
    return sum(counts) / max(1, len(counts))


@contextlib.contextmanager
def threads_restored() -> Iterator[None]:
    """Context manager: afterwards torch has as many CPU threads as before."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)

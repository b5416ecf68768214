"""Nets without kinks, so that two devices that round otherwise can be compared.

A ReLU or a maximum that flips because of the last bit changes the gradient of a tiny, untrained net by a hundredth, on
the same CPU too. What computes the rest (convolutions, normalisation, heads, losses, views) is compared to 1e-4 without
them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

SHARPNESS = 4.0
RELUS = {
    *(functional.relu, functional.relu_, functional.relu6, functional.hardtanh),
    *(torch.relu, torch.relu_, Tensor.relu, Tensor.relu_),
}


class Smooth(TorchFunctionMode):
    """Within it every ReLU is a softplus and every max-pooling an average; softplus, as second-order heads take roots
    of what it gives.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in RELUS:
            return functional.softplus(args[0], beta=SHARPNESS)
        if func is functional.max_pool2d:
            return averaged(*args, **kwargs)
        return func(*args, **kwargs)


def averaged(
    images: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: int = 0,
    dilation: int = 1,
    ceil_mode: bool = False,
    **more: Any,
) -> Tensor:
    """An average in place of `max_pool2d`, padded before it: torch's own has a wrong gradient on a GPU
    (`memory_format` of methods/backbones.py).
    """
    return functional.avg_pool2d(functional.pad(images, [padding] * 4), kernel_size, stride, ceil_mode=ceil_mode)


def smoothed(net: nn.Module) -> nn.Module:
    """The same by other modules in place of the net's own, for a compiler that knows no such mode."""
    for module in net.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Softplus(beta=SHARPNESS))
            elif isinstance(child, nn.MaxPool2d):
                assert isinstance(child.padding, int)
                average = nn.AvgPool2d(child.kernel_size, child.stride)
                setattr(module, name, nn.Sequential(nn.ZeroPad2d(child.padding), average))
    return net

"""First weights for layers that nobody trained yet."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def kaiming_init_(module: nn.Module) -> nn.Module:
    """Gives every convolution and linear layer in it normal weights that keep the variance through ReLUs (He et al. 2015,
    arXiv 1502.01852) and biases of 0, every batch normalisation its neutral state; returns the module.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, _BatchNorm):
            layer.reset_parameters()
    return module

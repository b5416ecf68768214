"""Spatial attention maps and their fusion with the features (paper section III-B, Eq. 2 to 6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

Activation = Literal["sigmoid", "softmax", "softmax_peak"]
Statistics = Literal["mean_max", "all"]

# Standard deviation of the initial weights. The maximum over the channels of a ResNet's last map is near 8, so torch's
# default (up to 0.7) would saturate the sigmoid for many seeds. With this value the initial maps differ from sigmoid(0)
# by a few hundredths.
INIT_STD = 0.01


def activate(logits: Tensor, activation: Activation) -> Tensor:
    """Attention (B, 1, h, w) from logits of the same shape.

    sigmoid: each cell in (0, 1).  softmax: the cells of an image sum to 1 (Eq. 4 as printed).
    softmax_peak: the softmax divided by its maximum, so that the maximum is 1.
    """
    if activation == "sigmoid":
        return logits.sigmoid()
    cells = logits.flatten(1)
    if activation == "softmax":
        return cells.softmax(dim=1).view_as(logits)
    # softmax / max(softmax) = exp(z - max z), which needs no sum and cannot overflow.
    return (cells - cells.amax(dim=1, keepdim=True)).exp().view_as(logits)


def layer_name(region: str) -> str:
    """The name of a region's layer in a ModuleDict: its own, or with a capital where torch has that name (half, type).

    No two regions share one, because their names have no capitals.
    """
    return region.capitalize() if hasattr(nn.ModuleDict, region) or region == "training" else region


class MaskAttention(nn.Module):
    """Attention map of a feature map: F (B, C, h, w) -> A (B, 1, h, w) float32.

    mean_max: mean (Eq. 2) and maximum (Eq. 3; the paper's "argmax" can only mean the maximum) over the channels, a 1x1
    convolution 2 -> 1 without bias, and an activation (Eq. 4).
    all: a 1x1 convolution C -> 1 over all channels instead (a control that is not in the paper).  channels: C.
    """

    def __init__(self, activation: Activation, statistics: Statistics = "mean_max", channels: int = 2) -> None:
        super().__init__()
        self.activation, self.statistics = activation, statistics
        inputs = 2 if statistics == "mean_max" else channels
        self.conv = nn.Conv2d(inputs, 1, kernel_size=1, bias=False)
        nn.init.normal_(self.conv.weight, std=INIT_STD * (2 / inputs) ** 0.5)

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) -> attention (B, 1, h, w) (Eq. 2 to 4)."""
        statistics = features
        if self.statistics == "mean_max":
            statistics = torch.cat([features.mean(dim=1, keepdim=True), features.amax(dim=1, keepdim=True)], dim=1)
        # In float32 under autocast too, because bfloat16 resolves a sigmoid near 0.5 to 1/256 only.
        return activate(self.conv(statistics).float(), self.activation)


def fuse(features: Tensor, attention: Mapping[str, Tensor], base: float, weights: Mapping[str, float]) -> Tensor:
    """F' = base F + sum_r weights[r] A_r F (Eq. 5), (B, C, h, w); by Eq. 6 base and weights sum to 1.

    features: F (B, C, h, w).  attention: {region r: A_r (B, 1, h, w)}.
    """
    gain: Tensor | float = base
    for region, attended in attention.items():
        gain = gain + weights[region] * attended
    # One multiplication of the large map instead of one for each region.
    return features * (gain.to(features.dtype) if isinstance(gain, Tensor) else gain)

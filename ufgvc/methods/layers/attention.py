"""Spatial attention from two statistics of a feature map (paper Eq. 2 to 6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

Activation = Literal["sigmoid", "softmax", "softmax_peak"]
Statistics = Literal["mean_max", "all"]

# The maximum over the channels of a ResNet's last map is near 8; torch's own range (up to 0.7) would saturate the sigmoid
# in many seeds. With this spread (standard deviation) the maps start within a few hundredths of sigmoid(0), yet differ.
START_SPREAD = 0.01


def activate(logits: Tensor, activation: Activation) -> Tensor:
    """Attention (B, 1, h, w) from logits of that shape.

    sigmoid: each cell in (0, 1).  softmax: the cells of an image sum to 1 (Eq. 4 to the letter).
    softmax_peak: the softmax divided by its largest value, so that the peak is 1.
    """
    if activation == "sigmoid":
        return logits.sigmoid()
    cells = logits.flatten(1)
    if activation == "softmax":
        return cells.softmax(dim=1).view_as(logits)
    # softmax / max(softmax) = exp(z - max z): no sum, and nothing can overflow.
    return (cells - cells.amax(dim=1, keepdim=True)).exp().view_as(logits)


class MaskAttention(nn.Module):
    """One attention map from a feature map: F (B, C, h, w) -> A (B, 1, h, w) float32.

    mean_max: mean (Eq. 2) and maximum (Eq. 3, where the paper's "argmax" can only mean the maximum) over the channels,
    a 1x1 convolution from these two to one without bias, an activation (Eq. 4).
    all: the convolution sees every channel instead, C -> 1 (a control that is not in the paper; `channels` says how many).
    """

    def __init__(self, activation: Activation, statistics: Statistics = "mean_max", channels: int = 2) -> None:
        super().__init__()
        self.activation, self.statistics = activation, statistics
        seen = 2 if statistics == "mean_max" else channels
        self.conv = nn.Conv2d(seen, 1, kernel_size=1, bias=False)
        nn.init.normal_(self.conv.weight, std=START_SPREAD * (2 / seen) ** 0.5)

    def forward(self, features: Tensor) -> Tensor:
        statistics = features
        if self.statistics == "mean_max":
            statistics = torch.cat([features.mean(dim=1, keepdim=True), features.amax(dim=1, keepdim=True)], dim=1)
        # In float32 under autocast as well: bfloat16 resolves a sigmoid near 0.5 to 1/256 only.
        return activate(self.conv(statistics).float(), self.activation)


def fuse(features: Tensor, attention: Mapping[str, Tensor], base: float, weights: Mapping[str, float]) -> Tensor:
    """F' = base F + sum_r weights[r] A_r F (Eq. 5), (B, C, h, w); base and weights sum to 1 (Eq. 6)."""
    gain: Tensor | float = base
    for region, attended in attention.items():
        gain = gain + weights[region] * attended
    # One multiplication of the large map instead of one a region.
    return features * (gain.to(features.dtype) if isinstance(gain, Tensor) else gain)

"""Plain RGB to what a pretrained backbone expects."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalise(nn.Module):
    """(images - mean) / std per channel: (B, 3, H, W) in [0, 1] to the same shape.

    contiguous: whether a GPU gets them in the ordinary memory format, whatever they came in (layout.py says why).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD, contiguous: bool = False
    ) -> None:
        super().__init__()
        self.contiguous = contiguous
        # Not in the state dict: the values belong to the backbone's name, and DDP need not broadcast them.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        normalised = (images - self.mean) / self.std
        return normalised.contiguous() if self.contiguous and images.is_cuda else normalised

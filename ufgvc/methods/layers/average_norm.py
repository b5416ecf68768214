"""Batch normalisation by what was seen in the whole training."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class AverageNorm(nn.BatchNorm1d):
    """(B, C) -> (B, C) without mean and of variance 1, nothing learnt: in training those of the batch, in tests the plain averages of
    the means and variances of all training batches.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, momentum=None, affine=False)

    def forward(self, values: Tensor) -> Tensor:
        if not self.training or values.device.type == "cpu":
            return super().forward(values)
        return self.normed_by_batch(values)

    def normed_by_batch(self, values: Tensor) -> Tensor:
        """What torch's own forward does in training, without its read of the number of batches: for that a GPU would run dry each step."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        normed = functional.batch_norm(values, mean, variance, training=True, momentum=1.0, eps=self.eps)
        self.num_batches_tracked.add_(1)
        share = self.num_batches_tracked.to(mean.dtype).reciprocal()
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)
        return normed

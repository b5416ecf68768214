"""The moving average of a net's weights over the steps of a training."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """Exponential moving average of all weights and buffers of a net, in eval mode.

    The decay after t steps is min(decay, (1 + t) / (10 + t)), as TensorFlow's ExponentialMovingAverage has it: about
    the last tenth of all steps counts as long as there are few of them, so that the first weights are soon forgotten.
    torch's AveragedModel has no such decay, and waits for the GPU in every step.

    net: the average, a copy of the net given.  steps: of which it is the average.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self.net = copy.deepcopy(net).requires_grad_(False).eval()
        self.decay, self.steps = decay, 0

    def update(self, net: nn.Module) -> None:
        """Adds the net's weights after a step."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        pairs = list(zip(self.net.state_dict().values(), net.state_dict().values(), strict=True))
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        average = get_ema_multi_avg_fn(decay)
        average([mean for mean, _ in floats], [now for _, now in floats], self.steps)
        with torch.no_grad():
            for mean, now in pairs:
                if not mean.is_floating_point():  # the batches that BatchNorm has seen
                    mean.copy_(now)
        self.steps += 1

    def restore(self, weights: dict[str, Any], steps: int) -> None:
        """Goes on from the average of a checkpoint."""
        self.net.load_state_dict(weights)
        self.steps = steps

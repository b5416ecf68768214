"""Sums over the steps of an epoch."""

from __future__ import annotations

import torch
from torch import Tensor

from ufgvc.training.ddp import Ranks


class EpochTotals:
    """Sums over the batches of a training epoch, on the device, so that no step waits for it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.losses: dict[str, Tensor] = {}
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.rows = self.images = 0

    def add(self, losses: dict[str, tuple[Tensor, Tensor]], correct: Tensor, rows: int, images: int) -> None:
        """Adds a step's `StepResult`."""
        for name, (total, number) in losses.items():
            pair = torch.stack([total.detach().double(), number.detach().double()])
            self.losses[name] = self.losses[name] + pair if name in self.losses else pair
        self.correct, self.rows, self.images = self.correct + correct, self.rows + rows, self.images + images

    def reduce(self, ranks: Ranks) -> Tensor:
        """(number of losses + 2, 2) float64 on the CPU, summed over the ranks.

        Rows: (sum, count) of each loss, (correct, rows), (images, images). A single transfer; it waits for the device.
        """
        accuracy = torch.stack([self.correct.double(), torch.full_like(self.correct, self.rows, dtype=torch.float64)])
        images = torch.full((2,), float(self.images), dtype=torch.float64, device=self.device)
        return ranks.sum(torch.stack([*self.losses.values(), accuracy, images])).cpu()

"""Sums over the batches of an epoch and over the ranks: of its training, and of the images that choose the epoch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ufgvc.methods.method import Method
from ufgvc.training.ddp import Ranks
from ufgvc.training.loader import BatchLoader
from ufgvc.training.steps import eval_step

# Held-out images whose logits are kept: enough to fit a temperature, and small in comparison with the weights.
CALIBRATION_IMAGES = 20_000


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


def score_validation(
    method: Method, net: nn.Module, loader: BatchLoader, ranks: Ranks, keeps: bool
) -> tuple[dict[str, float], list[tuple[Tensor, Tensor]]]:
    """The metrics over all ranks, and this rank's (logits, labels) of at most CALIBRATION_IMAGES.

    net: of the method, with the weights to score.  loader: has validation images.  keeps: whether logits are wanted.
    RuntimeError if not all images were scored.
    """
    net = net.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=ranks.device)  # correct, count, loss
    scored: list[tuple[Tensor, Tensor]] = []
    every = -(-loader.num_val // CALIBRATION_IMAGES)
    for images, labels in loader.validation():
        logits = eval_step(method, net, images).double()
        total = functional.cross_entropy(logits, labels, reduction="sum")
        hits = (logits.argmax(1) == labels).sum()
        sums += torch.stack([hits.double(), torch.full_like(total, len(labels)), total])
        if keeps:
            scored.append((logits[::every].float().cpu(), labels[::every].cpu()))
    correct, count, loss = ranks.sum(sums).tolist()
    if int(count) != loader.num_val:
        raise RuntimeError(f"evaluated {int(count)} of {loader.num_val} images")
    metrics = {
        "validation_accuracy": correct / count,
        "validation_correct": correct,
        "validation_leaves": count,
        "validation_loss": loss / count,
    }
    return metrics, scored

"""Accuracy and loss of an epoch on the images that choose the epoch. Each rank scores a part of them."""

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

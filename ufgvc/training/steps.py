"""One step of training and one of evaluation. Torch only: the loop brings the ranks, the tests run it plain."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ufgvc.core.errors import UserError
from ufgvc.methods.method import Batch, LossParts, Method

Precision = Literal["fp32", "bf16"]


def identity(value: Tensor) -> Tensor:
    return value


def choose_precision(wanted: Literal["auto", "fp32", "bf16"], device: torch.device) -> Precision:
    """auto: bf16 on a GPU that computes in it, else fp32. UserError if bf16 is asked for where it is emulated or slow."""
    able = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if wanted == "bf16" and not able:
        raise UserError(f"{device} does not compute in bf16", where="precision", fix="use `auto` or `fp32`")
    return "bf16" if able and wanted != "fp32" else "fp32"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


@dataclass(frozen=True)
class StepResult:
    """What one rank saw in one step; tensors without gradient, on the device, so that nobody waits for it.

    losses: {name: (sum, count)}, unweighted.  correct: () how many of the `count` rows have their label as the largest logit.
    count: rows of the batch after the method's views.  images: before them.
    """

    losses: LossParts
    correct: Tensor
    count: int
    images: int


def total_loss(
    method: Method, parts: LossParts, reduce: Callable[[Tensor], Tensor] = identity, world: int = 1
) -> Tensor:
    """What a rank differentiates: the sum over the parts of weight * (own sum / count of all ranks) * world.

    reduce: sums a tensor over the ranks; it is called once.  DDP averages gradients over the ranks; times world they add up,
    to the gradient that one process would have over all images, however unevenly these are spread. A part that nobody
    counted (no image has that mask) adds 0.
    """
    counts = reduce(torch.stack([count.detach() for _, count in parts.values()])).clamp(min=1)
    terms = [
        method.loss_weights[name] * total / count
        for (name, (total, _)), count in zip(parts.items(), counts, strict=True)
    ]
    return torch.stack(terms).sum() * world


def train_step(
    method: Method,
    model: nn.Module,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    precision: Literal["auto", "fp32", "bf16"] = "fp32",
    reduce: Callable[[Tensor], Tensor] = identity,
    world: int = 1,
) -> StepResult:
    """Views, forward, losses, backward, one step of the optimizer.

    model: what wraps the method's net (DDP, compiled), or the net itself, already in training mode.  reduce, world: see total_loss.
    """
    plain = len(batch.labels)
    batch = method.views(batch)
    device = batch.images.device
    with autocast(choose_precision(precision, device), device):
        outputs = model(batch.images)
    # Outside of autocast: losses are sums over many cells, which bfloat16 would round away.
    parts = method.losses(outputs, batch)
    optimizer.zero_grad(set_to_none=True)
    total_loss(method, parts, reduce, world).backward()
    optimizer.step()
    losses = {name: (total.detach(), count.detach()) for name, (total, count) in parts.items()}
    correct = (outputs["logits"].detach().argmax(dim=1) == batch.labels).sum()
    return StepResult(losses, correct, len(batch.labels), plain)


def eval_step(method: Method, model: nn.Module, images: Tensor) -> Tensor:
    """Logits (B, K) float32 without gradients, by the method's test views. In fp32, as `evaluate` and `predict` score, whatever the
    precision of training.

    images: (B, 3, H, W) float in [0, 1].  model: in eval mode already.
    """
    with torch.inference_mode():
        return method.predict(images, model)

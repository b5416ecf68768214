"""One step of training and one of evaluation, in plain torch: the caller provides the reduction over ranks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from ufgvc.core.errors import UserError
from ufgvc.data.stream import num_batches
from ufgvc.methods.method import Batch, LossParts, Method, identity
from ufgvc.methods.recipe import Recipe
from ufgvc.training.graphs import StepGraphs

Precision = Literal["fp32", "bf16"]
# Steps of a training from which cuDNN's benchmark mode pays off. It searches for the fastest algorithms again for every
# batch size: on an H200, twelve concurrent trainings of 300 to 400 steps waited some 50 s for each size, longer than
# for all of their steps.
BENCHMARK_STEPS = 2000


def use_cudnn_benchmark(recipe: Recipe, images: int, device: torch.device) -> bool:
    """Whether to set `torch.backends.cudnn.benchmark` for a training on this number of images."""
    return device.type == "cuda" and num_steps(recipe, images) >= BENCHMARK_STEPS


def num_steps(recipe: Recipe, images: int) -> int:
    """Steps of a whole training on this number of images."""
    return recipe.epochs * num_batches(images, recipe.batch_size)


def choose_precision(wanted: Literal["auto", "fp32", "bf16"], device: torch.device) -> Precision:
    """auto: bf16 on a GPU with native bf16, else fp32. UserError if bf16 is requested on a device without it."""
    supported = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if wanted == "bf16" and not supported:
        raise UserError(f"{device} does not support bf16", where="precision", fix="use `auto` or `fp32`")
    return "bf16" if supported and wanted != "fp32" else "fp32"


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """`torch.autocast` to bfloat16 for "bf16"; disabled for "fp32"."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


@dataclass(frozen=True)
class StepResult:
    """Results of one step on one rank: tensors without gradient that stay on the device, so that the step does not
    wait.

    losses: {name: (sum, count)}, unweighted.  correct: () number of rows whose largest logit is that of their label.
    count: rows of the batch after the method's views.  images: rows before the views.
    """

    losses: LossParts
    correct: Tensor
    count: int
    images: int


def total_loss(
    method: Method, parts: LossParts, reduce: Callable[[Tensor], Tensor] = identity, world: int = 1
) -> Tensor:
    """The loss that a rank differentiates: sum over the parts of weight * (own sum / count over all ranks) * world.

    reduce: sums a tensor over the ranks; called once.  world: number of ranks. DDP averages gradients over the ranks,
    so the factor makes them the gradient of one process over all images, however unevenly these are distributed. A part
    with a count of 0 (no image has that mask) is 0.
    """
    counts = reduce(torch.stack([count.detach() for _, count in parts.values()])).clamp(min=1)
    terms = [
        method.loss_weights[name] * total / count
        for (name, (total, _)), count in zip(parts.items(), counts, strict=True)
    ]
    return torch.stack(terms).sum() * world


def compute_gradients(
    method: Method,
    model: nn.Module,
    batch: Batch,
    precision: Literal["auto", "fp32", "bf16"] = "fp32",
    reduce: Callable[[Tensor], Tensor] = identity,
    world: int = 1,
) -> tuple[LossParts, Tensor]:
    """Forward, losses and backward of a batch with the method's views, which add to the parameters' `grad`.

    model, precision, reduce, world: see `train_step`.  Returns the parts of the loss, and () the correct rows.
    """
    device = batch.images.device
    with autocast(choose_precision(precision, device), device):
        outputs = model(batch.images)
    # Outside of autocast, because losses are sums over many cells, for which bfloat16 is too coarse.
    parts = method.losses(outputs, batch)
    total_loss(method, parts, reduce, world).backward()
    losses = {name: (total.detach(), count.detach()) for name, (total, count) in parts.items()}
    return losses, (outputs["logits"].detach().argmax(dim=1) == batch.labels).sum()


def train_step(
    method: Method,
    model: nn.Module,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    precision: Literal["auto", "fp32", "bf16"] = "fp32",
    reduce: Callable[[Tensor], Tensor] = identity,
    world: int = 1,
    graphs: StepGraphs | None = None,
) -> StepResult:
    """Views, forward, losses, backward and one optimizer step.

    model: the method's net, plain or wrapped (DDP, compiled), in training mode.  reduce, world: see `total_loss`.
    graphs: computes the gradients in place of `compute_gradients` of the model.
    """
    images = len(batch.labels)
    batch = method.views(replace(batch, sum_over_ranks=reduce))
    if graphs is None:
        optimizer.zero_grad(set_to_none=True)
        losses, correct = compute_gradients(method, model, batch, precision, reduce, world)
    else:
        losses, correct = graphs(batch)
    optimizer.step()
    return StepResult(losses, correct, len(batch.labels), images)


def eval_step(method: Method, model: nn.Module, images: Tensor) -> Tensor:
    """Logits (B, K) float32 without gradients; always in fp32, like `evaluate` and `predict`.

    images: (B, 3, H, W) float in [0, 1].  model: the method's net, plain or wrapped, in eval mode.
    """
    with torch.inference_mode():
        return method.predict(images, model)

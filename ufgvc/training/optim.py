"""One optimizer for all methods: two groups (backbone, head), a rate for each stage and epoch. Torch only."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ufgvc.core.errors import UserError
from ufgvc.methods.method import Method
from ufgvc.methods.recipe import Stage


def freeze(method: Method, stage: Stage) -> None:
    """Lets exactly the parameters outside of the stage's frozen modules learn. Before DDP: it looks at this once, when it wraps."""
    frozen = frozen_modules(method, stage)
    still = {id(parameter) for module in frozen for parameter in module.parameters()}
    for parameter in method.net.parameters():
        parameter.requires_grad_(id(parameter) not in still)


def frozen_modules(method: Method, stage: Stage) -> list[nn.Module]:
    modules = dict(method.net.named_modules())
    unknown = [name for name in stage.frozen if name not in modules]
    if unknown:
        known = ", ".join(name for name, _ in method.net.named_children())
        raise UserError(
            f"the net of {method.name} has no module {unknown[0]!r} to freeze",
            where="stages.frozen",
            fix=f"it has: {known}",
        )
    return [modules[name] for name in stage.frozen]


def train_mode(method: Method, model: nn.Module, stage: Stage) -> None:
    """Training mode for everything but the frozen modules, whose BatchNorm statistics and dropout must rest too.

    model: what wraps the net (DDP, compiled), or the net itself.
    """
    model.train()
    for module in frozen_modules(method, stage):
        module.eval()


def parameter_groups(method: Method, stage: Stage) -> list[dict[str, Any]]:
    """The parameters that learn, each in exactly one of the groups "backbone" and "head"; a group without any is left out."""
    groups: dict[str, list[nn.Parameter]] = {"backbone": [], "head": []}
    for name, parameter in method.net.named_parameters():
        if parameter.requires_grad:
            groups["head" if method.is_head(name) else "backbone"].append(parameter)
    rates = {"backbone": stage.lr, "head": stage.lr * stage.head_lr_factor}
    return [
        {
            "params": parameters,
            "name": name,
            "lr": rates[name],
            "initial_lr": rates[name],
            "weight_decay": stage.weight_decay,
        }
        for name, parameters in groups.items()
        if parameters
    ]


def make_optimizer(method: Method, stage: Stage) -> torch.optim.SGD:
    """Freezes what the stage freezes, and descends on the rest. Each group's "initial_lr" is its rate before the schedule."""
    freeze(method, stage)
    return torch.optim.SGD(parameter_groups(method, stage), lr=stage.lr, momentum=stage.momentum)


def lr_factor(stage: Stage, epoch: int, history: Sequence[Mapping[str, float]] = ()) -> float:
    """What every learning rate of the stage is multiplied by in an epoch, counted from 0 within the stage.

    history: the rows of the stage's epochs so far; only `plateau` looks at them.
    """
    if epoch < stage.warmup_epochs:
        return (epoch + 1) / (stage.warmup_epochs + 1)
    if stage.schedule == "step":
        return stage.gamma ** (epoch // stage.step_epochs)
    if stage.schedule == "milestones":
        return stage.gamma ** bisect.bisect_right(sorted(stage.milestones), epoch)
    if stage.schedule == "cosine":
        span = max(1, stage.epochs - stage.warmup_epochs)
        return (1 + math.cos(math.pi * min(1.0, (epoch - stage.warmup_epochs) / span))) / 2
    if stage.schedule == "plateau":
        return stage.gamma ** count_plateau_drops(history[:epoch], stage.patience)
    return 1.0


def count_plateau_drops(history: Sequence[Mapping[str, float]], patience: int) -> int:
    """How often the score stood still for more than `patience` epochs in a row, counted anew after each time.

    The score is the accuracy on held-out leaves where the rows have one, else that on the training crops. Any gain is a gain.
    """
    name = "validation_accuracy" if history and "validation_accuracy" in history[0] else "train_accuracy"
    best, still, fallen = -math.inf, 0, 0
    for row in history:
        if row[name] > best:
            best, still = row[name], 0
        else:
            still += 1
        if still > patience:
            fallen, still = fallen + 1, 0
    return fallen


def stage_at(stages: Sequence[Stage], epoch: int) -> int:
    """The stage that an epoch, counted from 0 over all stages, lies in; the last one for any epoch behind it."""
    return _locate(stages, epoch)[0]


def lr_at(stages: Sequence[Stage], epoch: int, history: Sequence[Mapping[str, float]] = ()) -> float:
    """`lr_factor` of an epoch counted from 0 over all stages; history: the rows of all epochs before it."""
    index, within = _locate(stages, epoch)
    return lr_factor(stages[index], within, history[epoch - within : epoch])


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Gives every group its initial rate times the factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def _locate(stages: Sequence[Stage], epoch: int) -> tuple[int, int]:
    for index, stage in enumerate(stages):
        if epoch < stage.epochs or index == len(stages) - 1:
            return index, epoch
        epoch -= stage.epochs
    raise ValueError("there are no stages")

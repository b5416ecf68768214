"""The optimizers with their parameter groups (backbone, head) and the learning rate schedules of a recipe."""

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

LAYERS = 12  # parts of a backbone that differ in their learning rate, as in ConvNeXt's fine-tuning


def freeze(method: Method, stage: Stage) -> None:
    """Sets `requires_grad` of all parameters: False in the stage's frozen modules, else True.

    Call it before DDP wraps the net, because DDP reads `requires_grad` only then.
    """
    frozen = frozen_modules(method, stage)
    fixed = {id(parameter) for module in frozen for parameter in module.parameters()}
    for parameter in method.net.parameters():
        parameter.requires_grad_(id(parameter) not in fixed)


def frozen_modules(method: Method, stage: Stage) -> list[nn.Module]:
    """The modules of the net that `stage.frozen` names. UserError for names that the net does not have."""
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
    """Training mode for all modules except frozen ones, which keep their BatchNorm statistics and use no dropout.

    model: the method's net, plain or wrapped (DDP, compiled).
    """
    model.train()
    for module in frozen_modules(method, stage):
        module.eval()


def parameter_groups(method: Method, stage: Stage) -> list[dict[str, Any]]:
    """Trainable parameters in the groups "backbone" and "head", for torch.optim; empty groups are omitted.

    Each group's "initial_lr" is its learning rate before the schedule. With `adamw`, biases and the parameters of
    norms, which have one dimension, are in groups of their own without weight decay, as in timm. With `layer_decay`,
    each of LAYERS equal parts of the backbone's tensors, in their order, has its own groups, the last part first.
    """
    layers = _layers(method) if stage.layer_decay < 1 else {}
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in method.net.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = stage.optimizer == "sgd" or parameter.ndim > 1
        above = layers.get(name, 0)
        head = method.is_head(name)
        rate = stage.lr * (stage.head_lr_factor if head else stage.layer_decay**above)
        group: dict[str, Any] = {
            "params": [],
            "name": "head" if head else "backbone",
            "lr": rate,
            "initial_lr": rate,
            "weight_decay": stage.weight_decay if decays else 0.0,
        }
        groups.setdefault((LAYERS if head else above, not decays), group)["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def _layers(method: Method) -> dict[str, int]:
    """{name: number of parts above it} of the backbone's parameters, which are in the order of their layers.

    In timm and torchvision they are; timm's own groups need its own models.
    """
    names = [name for name, _ in method.net.named_parameters() if not method.is_head(name)]
    return {name: LAYERS - 1 - place * LAYERS // len(names) for place, name in enumerate(names)}


def has_fused_kernels(net: nn.Module) -> bool | None:
    """Whether torch updates all parameters in a few kernels: on a GPU. None leaves the choice to torch."""
    return True if next(net.parameters()).device.type == "cuda" else None


def make_optimizer(method: Method, stage: Stage) -> torch.optim.Optimizer:
    """Freezes the stage's frozen modules and returns its optimizer over the other parameters, on their device."""
    freeze(method, stage)
    groups = parameter_groups(method, stage)
    fused = has_fused_kernels(method.net)
    if stage.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=stage.lr, fused=fused)
    return torch.optim.SGD(groups, lr=stage.lr, momentum=stage.momentum, fused=fused)


def lr_factor(stage: Stage, epoch: int, history: Sequence[Mapping[str, float]] = ()) -> float:
    """Factor of the learning rates in an epoch, counted from 0 within the stage.

    A pure function of the epoch (and, for `plateau`, of the history), so that a resumed training has the same rates.
    history: metrics of the stage's previous epochs, used by `plateau` only.
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
    """How often the score did not improve for more than `patience` epochs in a row; the count restarts after each time.

    The score is the validation accuracy if the history has one, else the training accuracy. Any increase counts.
    """
    name = "validation_accuracy" if history and "validation_accuracy" in history[0] else "train_accuracy"
    best, bad_epochs, drops = -math.inf, 0, 0
    for row in history:
        if row[name] > best:
            best, bad_epochs = row[name], 0
        else:
            bad_epochs += 1
        if bad_epochs > patience:
            drops, bad_epochs = drops + 1, 0
    return drops


def stage_at(stages: Sequence[Stage], epoch: int) -> int:
    """Index of the stage of an epoch counted from 0 over all stages; the last stage for epochs after the end."""
    return _locate(stages, epoch)[0]


def lr_at(stages: Sequence[Stage], epoch: int, history: Sequence[Mapping[str, float]] = ()) -> float:
    """`lr_factor` of an epoch counted from 0 over all stages.  history: metrics of all previous epochs."""
    index, within = _locate(stages, epoch)
    return lr_factor(stages[index], within, history[epoch - within : epoch])


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Sets each group's learning rate to its initial rate times the factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


def _locate(stages: Sequence[Stage], epoch: int) -> tuple[int, int]:
    """(index of the stage, epoch within it)."""
    for index, stage in enumerate(stages):
        if epoch < stage.epochs or index == len(stages) - 1:
            return index, epoch
        epoch -= stage.epochs
    raise ValueError("there are no stages")

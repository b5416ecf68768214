"""What the tests on a GPU share: small methods, batches of noise, and how far two results lie apart."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ufgvc.core.region_names import PAPER_REGIONS
from ufgvc.data.dataset import open_dataset, read_manifest
from ufgvc.methods import Batch, Method, build, names, options_class
from ufgvc.methods.backbones import memory_format
from ufgvc.training.run import make_worker_config
from ufgvc.training.settings import TrainSettings
from ufgvc.training.steps import autocast, total_loss
from ufgvc.training.worker import Worker

CLASSES, SIDE = 5, 64
# Where resnet18 does not suit: B-CNN pools the square of the channels, of which AlexNet has few; fully connected layers
# are narrowed.
SMALLER: dict[str, dict[str, Any]] = {
    "alexnet": {"hidden": 64},
    "bcnn": {"backbone": "alexnet"},
    "improved_bcnn": {"backbone": "alexnet", "iterations": 3},
    "vgg16": {"backbone": "vgg11_bn", "hidden": 64},
}
PROBES = ("linear_probe", "part_probe")  # a fit in place of steps
TRAINED = tuple(name for name in names() if name not in PROBES)
SECOND_ORDER = ("bcnn", "improved_bcnn", "mpn_cov")


def small(name: str, num_classes: int = CLASSES, dropout: bool = True) -> Method:
    """The method on a small backbone, where it lets one choose.  dropout: without it nothing in a step is drawn on the
    device.
    """
    torch.manual_seed(0)
    usual: dict[str, Any] = {"backbone": "resnet18"} if "backbone" in options_class(name).model_fields else {}
    method = build(name, num_classes, **(usual | SMALLER.get(name, {})))
    for layer in method.net.modules():
        if isinstance(layer, nn.Dropout) and not dropout:
            layer.p = 0.0
    return method


def noise_batch(method: Method, count: int = 8, seed: int = 0) -> Batch:
    """`count` random images just large enough for the method, with masks and the numbers that its views draw; on the
    CPU.
    """
    generator = torch.Generator().manual_seed(seed)
    side = max(SIDE, method.min_side)
    images = torch.rand(count, 3, side, side, generator=generator).contiguous(memory_format=torch.channels_last)
    masks: dict[str, Tensor] = {
        region: torch.rand(count, 1, side, side, generator=generator).round() for region in PAPER_REGIONS
    }
    has: dict[str, Tensor] = {region: torch.arange(count) % 4 > 0 for region in PAPER_REGIONS}
    uniforms = torch.rand(count, method.num_uniforms, generator=generator, dtype=torch.float64)
    return Batch(images, torch.arange(count) % CLASSES, masks, has, uniforms=uniforms)


def move(batch: Batch, device: torch.device) -> Batch:
    """The batch on the device; the numbers that views draw stay on the CPU."""

    def moved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(device) for name, tensor in tensors.items()}

    return replace(
        batch,
        images=batch.images.to(device),
        labels=batch.labels.to(device),
        masks=moved(batch.masks),
        has_mask=moved(batch.has_mask),
    )


def on(method: Method, device: torch.device) -> Method:
    """A copy of the method whose net lies on the device, in the memory format that a training gives it."""
    return replace(method, net=deepcopy(method.net).to(device).to(memory_format=memory_format(method.net, device)))


@dataclass(frozen=True)
class Learnt:
    """One backward pass.  losses: {part: () loss}.  gradients: {parameter: its gradient}; all float64 on the CPU."""

    losses: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]

    def flat(self) -> Tensor:
        return torch.cat([gradient.flatten() for gradient in self.gradients.values()])


def learn(
    method: Method,
    batch: Batch,
    device: torch.device,
    precision: Literal["fp32", "bf16"] = "fp32",
    compiled: bool = False,
) -> Learnt:
    """Views, forward, losses and backward on the device, on a copy of the net in training mode."""
    method = on(method, device)
    model: Any = method.net.train()
    if compiled:
        # The CPU's own compiler takes minutes, so there only the graph is made.
        model = torch.compile(model, backend="inductor" if device.type == "cuda" else "aot_eager")
    batch = method.views(move(batch, device))
    with autocast(precision, device):
        outputs = model(batch.images)
    parts = method.losses(outputs, batch)
    total_loss(method, parts).backward()
    losses = {name: (total.detach().double() / count.double()).cpu() for name, (total, count) in parts.items()}
    gradients = {
        name: each.grad.detach().double().cpu() for name, each in method.net.named_parameters() if each.grad is not None
    }
    return Learnt(losses, gradients)


def loss_gap(found: Learnt, wanted: Learnt) -> tuple[float, str]:
    """The largest difference of a part of the loss, relative to that part (or to 1e-3, if it is smaller), and which
    part it is.
    """
    gaps = {
        name: float((found.losses[name] - loss).abs() / loss.abs().clamp(min=1e-3))
        for name, loss in wanted.losses.items()
    }
    worst = max(gaps, key=lambda name: gaps[name])
    return gaps[worst], worst


def gradient_gap(found: Learnt, wanted: Learnt) -> tuple[float, str]:
    """The length of the difference of the whole gradients, relative to the wanted one's; and the parameter with the
    largest part of it.
    """
    pieces = {name: float((found.gradients[name] - gradient).norm()) for name, gradient in wanted.gradients.items()}
    return float((found.flat() - wanted.flat()).norm() / wanted.flat().norm()), max(
        pieces, key=lambda name: pieces[name]
    )


def cosine(found: Learnt, wanted: Learnt) -> float:
    """Of the angle between the whole gradients."""
    return float(torch.nn.functional.cosine_similarity(found.flat(), wanted.flat(), dim=0))


def make_worker(
    data: str, runs: Path, name: str, device: torch.device, cache: str = "device", side: int = SIDE, **changes: Any
) -> Worker:
    """What `ufgvc train` runs on one rank: a small method on the data set, batches of at most 5 of its 12 leaves."""
    dataset = open_dataset(data)
    method = small(name, len(dataset.classes))
    side = max(side, method.min_side)
    usual: dict[str, Any] = {
        "init": "none",
        "mask_kind": "exact",
        "epochs": 4,
        "batch_size": 5,
        "resize": side + (0 if method.recipe.classifier_fit else 8),
        "crop": side,
    }
    settings = TrainSettings(**(usual | {"cache": cache} | changes))
    masks = read_manifest(dataset, f"masks/{settings.mask_kind}").fingerprint if method.regions else None
    plan, _ = make_worker_config(dataset, method, settings, 0, masks, str(runs))
    return Worker.start(plan, 0, 1, 1, device, None, lambda folder, epoch: None)

"""The contract of a method: what a net takes and gives, and what the trainer may ask of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ufgvc.core.config import Settings
from ufgvc.core.registry import Registry
from ufgvc.methods.recipe import Recipe

# "logits" (B, K), "embedding" (B, D) and what the losses and pictures need; "attention" is a dict of tensors.
Outputs = dict[str, Any]
SEEN = "seen"
# Unweighted: the sum over what was counted, and the count. Their quotient over all ranks is the loss.
LossParts = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Batch:
    """What one training step sees. B images; regions are "vein" and "contour".

    images: (B, 3, H, W) float in [0, 1], RGB.  labels: (B,) int64.  masks: {region: (B, 1, H, W) float in [0, 1]}.
    has_mask: {region: (B,) bool}, False where the image has no mask of that region (its mask is then ignored).
    extra: {name: tensor}, what a method's views add for its losses.
    chance: (B, Method.chances) float64 uniform in [0, 1), on the CPU; a method's views draw from it, so that an image's views
    depend on seed, epoch and image only, not on the batch or the rank.
    """

    images: Tensor
    labels: Tensor
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    has_mask: Mapping[str, Tensor] = field(default_factory=dict)
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    chance: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.float64))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        def move(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.to(device, non_blocking=non_blocking) for name, tensor in tensors.items()}

        images = self.images.to(device, non_blocking=non_blocking)
        labels = self.labels.to(device, non_blocking=non_blocking)
        return Batch(images, labels, move(self.masks), move(self.has_mask), move(self.extra), self.chance)


def no_views(batch: Batch) -> Batch:
    return batch


@dataclass(frozen=True)
class Method:
    """A way to tell cultivars apart, as a value.

    net: images (B, 3, H, W) in [0, 1] -> Outputs. Everything learnable is inside (DDP wraps it), and so is the
    normalisation: a saved net takes plain RGB. Its last linear layer is `net.classifier`.
    losses: (outputs, batch) -> LossParts, unweighted and without parameters of its own; the total is the sum of
    loss_weights[name] * sum / count.  views: training only, makes the batch that the net sees from the plain one.
    head: prefixes of the parameter names in `net` that are new, not pretrained; they form the optimizer's group "head".
    chances: how many uniform numbers an image's views draw.  images_forwarded: what one training image costs, in passes of a
    whole image (a view or part of half the side counts a quarter).  min_side: the smallest crop in pixels that the net takes.
    regions: the masks that training needs.  last_map: the output (B, C, h, w) before pooling, for class activation maps.
    options: every option as JSON values; build(name, num_classes, **options) and the state dict make the method again.
    """

    name: str
    num_classes: int
    options: dict[str, Any]
    net: nn.Module
    losses: Callable[[Outputs, Batch], LossParts]
    loss_weights: Mapping[str, float]
    recipe: Recipe
    head: tuple[str, ...] = ("classifier",)
    regions: tuple[str, ...] = ()
    views: Callable[[Batch], Batch] = no_views
    chances: int = 0
    images_forwarded: float = 1.0
    min_side: int = 32
    last_map: str = "features"

    def is_head(self, parameter: str) -> bool:
        """Whether a parameter of the net, by its name, belongs to the new layers."""
        return any(parameter == prefix or parameter.startswith(f"{prefix}.") for prefix in self.head)

    def predict(self, images: Tensor, model: nn.Module | None = None) -> Tensor:
        """Logits (B, K) float32 as the method is tested; the average with the mirror image where its recipe says so.

        images: (B, 3, H, W) float in [0, 1].  model: what wraps the net (DDP, compiled); the net itself if None.
        The caller sets eval mode and turns gradients off.
        """
        return self._tested(images, self.net if model is None else model)[0]

    def look(self, images: Tensor, model: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """The logits of `predict`, and what the net saw: the mean over the cells of its last map, (B, C) float32, unmirrored."""
        logits, outputs = self._tested(images, self.net if model is None else model)
        # An exported net gives the mean, not the map.
        seen = outputs[SEEN] if SEEN in outputs else outputs[self.last_map].float().mean(dim=(2, 3))
        return logits, seen

    def _tested(self, images: Tensor, model: nn.Module) -> tuple[Tensor, Outputs]:
        outputs: Outputs = model(images)
        logits = outputs["logits"].float()
        if self.recipe.mirror:
            logits = (logits + model(images.flip(3))["logits"].float()) / 2
        return logits, outputs


# (number of classes, init, options) -> Method
Builder = Callable[[int, str, Any], Method]


@dataclass(frozen=True)
class Entry:
    """A registered method: the class of its options (the defaults are the published ones) and what builds it."""

    options: type[Settings]
    build: Builder


METHODS: Registry[Entry] = Registry("method")


def method(name: str, options: type[Settings]) -> Callable[[Builder], Builder]:
    """Decorator that files a builder under a name that configurations use."""

    def keep(builder: Builder) -> Builder:
        METHODS.register(name)(Entry(options, builder))
        return builder

    return keep

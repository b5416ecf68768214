"""The `Method` interface: inputs and outputs of a net, its losses, and what the training loop may use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ufgvc.core.config import Settings
from ufgvc.core.registry import Registry
from ufgvc.methods.recipe import Recipe

# "logits" (B, K), "embedding" (B, D), the last map and what the losses need; "attention" is a dict of tensors.
Outputs = dict[str, Any]
POOLED_FEATURES = "pooled_features"  # what exported nets return in place of the last map
# {name: (sum, count)}, unweighted. The loss is the quotient of both, each summed over all ranks.
LossParts = dict[str, tuple[Tensor, Tensor]]


def identity(value: Tensor) -> Tensor:
    """The reduction over a single rank."""
    return value


@dataclass(frozen=True)
class Batch:
    """A training batch of B images; regions are those of the data set.

    images: (B, 3, H, W) float in [0, 1], RGB.  labels: (B,) int64.
    masks: {region: (B, 1, H, W)}, uint8 of 0 and 1, or float in [0, 1].
    has_mask: {region: (B,) bool}, False for images without a mask of that region (their mask is ignored).
    targets: (B, K) float, class probabilities of softened labels; None: the labels are certain. The labels are then
    their likeliest classes.  extra: {name: tensor}, targets that a method's views add for its losses.
    uniforms: (B, Method.num_uniforms) float64 uniform in [0, 1), on the CPU: the random numbers of a method's views, so
    that an image's views depend on seed, epoch and image only, not on the batch or the rank.
    sum_over_ranks: sums a tensor without gradient over all ranks, in place, for losses that compare images. A loss
    calls it equally often on every rank.
    """

    images: Tensor
    labels: Tensor
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    has_mask: Mapping[str, Tensor] = field(default_factory=dict)
    targets: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    uniforms: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.float64))
    sum_over_ranks: Callable[[Tensor], Tensor] = identity

    @property
    def class_targets(self) -> Tensor:
        """What the cross-entropy of the classes is computed against: `targets`, or `labels` where these are certain."""
        return self.labels if self.targets is None else self.targets


def identity_views(batch: Batch) -> Batch:
    """The batch itself, for methods that train on plain images."""
    return batch


@dataclass(frozen=True)
class Method:
    """A classification method as a value: its net, losses, views and recipe.

    net: images (B, 3, H, W) in [0, 1] -> Outputs. It holds all parameters (DDP wraps it) and normalises the images, so
    a saved net takes plain RGB. Its last linear layer is `net.classifier`.
    losses: (outputs, batch) -> LossParts, unweighted and without parameters; the total loss is the sum of
    loss_weights[name] * sum / count.  views: training only; turns a plain batch into the batch that the net gets.
    head: prefixes of the parameter names in `net` that are not pretrained; they form the optimizer's group "head".
    num_uniforms: random numbers that the views of an image need.  images_forwarded: cost of a training image in forward
    passes of a whole image (a view of half the side counts a quarter).  min_side: smallest crop in pixels.
    regions: masks that training needs.  whole_leaf: whether the net measures the leaf's outline, which CutMix would
    break.  last_map: name of the output (B, C, h, w) before pooling.
    added_heads: linear layers of the net whose outputs evaluation adds to those of `net.classifier`.
    options: all options as JSON values; build(name, num_classes, **options) and the state dict restore the method.
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
    views: Callable[[Batch], Batch] = identity_views
    num_uniforms: int = 0
    images_forwarded: float = 1.0
    min_side: int = 32
    whole_leaf: bool = False
    last_map: str = "features"
    added_heads: tuple[str, ...] = ()

    @property
    def has_linear_head(self) -> bool:
        """Whether the logits are one plain linear layer of the "embedding", which training learns by gradient steps.

        Cosine heads are subclasses of the layer.
        """
        return type(self.net.classifier) is nn.Linear and not self.recipe.classifier_fit

    def is_head(self, parameter: str) -> bool:
        """Whether a parameter of the net, given by name, belongs to the new layers."""
        return any(parameter == prefix or parameter.startswith(f"{prefix}.") for prefix in self.head)

    def predict(self, images: Tensor, model: nn.Module | None = None) -> Tensor:
        """Logits (B, K) float32 in evaluation; averaged with the flipped image if the recipe has `mirror`.

        images: (B, 3, H, W) float in [0, 1].  model: the net wrapped by DDP or torch.compile; None: the net itself.
        The caller sets eval mode and disables gradients.
        """
        return self._forward_eval(images, self.net if model is None else model)[0]

    def predict_with_features(self, images: Tensor, model: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """Logits as of `predict`, and the features of `pool_features`, (B, C) float32, without flip."""
        logits, outputs = self._forward_eval(images, self.net if model is None else model)
        return logits, self.pool_features(outputs)

    def pool_features(self, outputs: Outputs) -> Tensor:
        """The vector (B, C) float32 of each image that out-of-distribution scores and nearest leaves are computed from.

        The standardised embedding of a fitted classifier, whose leaves of one cultivar lie closer together than in the
        last map (docs/results/neighbours.md); for any other method the mean of the last map over its cells.
        outputs: what the net returns for the images.
        """
        if POOLED_FEATURES in outputs:  # of an exported net
            return outputs[POOLED_FEATURES]
        if self.recipe.classifier_fit:
            return outputs["embedding"].float()
        pooled: Tensor = outputs[self.last_map].float().mean(dim=(2, 3))
        return pooled

    def _forward_eval(self, images: Tensor, model: nn.Module) -> tuple[Tensor, Outputs]:
        outputs: Outputs = model(images)
        logits = outputs["logits"].float()
        if self.recipe.mirror:
            logits = (logits + model(images.flip(3))["logits"].float()) / 2
        return logits, outputs


# (number of classes, init, options) -> Method
Builder = Callable[[int, str, Any], Method]


@dataclass(frozen=True)
class Entry:
    """A registered method: its options class, whose defaults are the published values, and its builder."""

    options: type[Settings]
    build: Builder


METHODS: Registry[Entry] = Registry("method")


def method(name: str, options: type[Settings]) -> Callable[[Builder], Builder]:
    """Decorator that registers a builder under the name that configurations use."""

    def register(builder: Builder) -> Builder:
        METHODS.register(name)(Entry(options, builder))
        return builder

    return register

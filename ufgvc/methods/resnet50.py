"""The plain baseline `resnet50`: any backbone, average pooling and a linear layer. The other plain nets build on it."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from ufgvc.core.config import Settings
from ufgvc.methods.backbones import Backbone, build_backbone
from ufgvc.methods.layers.stages import StagePool
from ufgvc.methods.method import Batch, LossParts, Method, Outputs, method
from ufgvc.methods.recipe import Recipe, Stage

# The paper copies the rows of its five plain nets from MaskCOV. No source states the recipe of these rows; this is how
# MaskCOV's released code trains a plain backbone (its README gives batches of 8 for cotton: set --train.batch-size).
RECIPE = Recipe(
    stages=(Stage(epochs=160, lr=1e-3, momentum=0.9, schedule="step", step_epochs=60, gamma=0.1),),
    batch_size=16,
    resize=440,
    crop=384,
    rotate=15.0,
    eval_view="resize",
)


class PlainOptions(Settings):
    """Options of the plain classifier."""

    backbone: str = Field("resnet50", description="name of a torchvision model, efficientnet_lite0, or `timm:<name>`")
    pooling: Literal["mean", "stages"] = Field(
        "mean",
        description="mean: over the last map, as published; stages: also mean and standard deviation of earlier stages",
    )
    stages: tuple[int, ...] = Field(
        (), description="`stages`: their numbers, from 1; empty: all but the last of stride 8 or more"
    )

    @model_validator(mode="after")
    def _stages_are_pooled(self) -> PlainOptions:
        if self.stages and self.pooling != "stages":
            raise ValueError("`stages` are pooled with `pooling: stages` only")
        return self


class GlobalAverage(nn.Module):
    """(B, C, h, w) -> (B, C), the mean over the map."""

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w) -> their mean over the positions (B, C)."""
        return features.mean(dim=(2, 3))


class PlainNet(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> "features" (B, C, h, w), "embedding" (B, D), "logits" (B, K).

    neck: maps features to the embedding; None: the mean over the map, with D = C.  width: D.
    bias: whether the classifier has a bias, as torchvision's nets do.
    """

    def __init__(
        self, backbone: nn.Module, width: int, num_classes: int, neck: nn.Module | None = None, bias: bool = True
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = GlobalAverage() if neck is None else neck
        self.classifier = nn.Linear(width, num_classes, bias=bias)

    def forward(self, images: Tensor) -> Outputs:
        """Images (B, 3, H, W) in [0, 1] -> logits (B, K), embedding and features."""
        features = self.backbone(images)
        embedding = self.neck(features)
        return {"features": features, "embedding": embedding, "logits": self.classifier(embedding)}


def pooled_net(backbone: Backbone, num_classes: int, options: PlainOptions) -> PlainNet:
    """The `PlainNet` on a backbone with the pooling of the options.

    Its classifier has no bias, as in DCL's released code and those derived from it.
    """
    if options.pooling == "mean":
        return PlainNet(backbone, backbone.channels, num_classes, bias=False)
    neck = StagePool(backbone, options.stages)
    return PlainNet(backbone, neck.width, num_classes, neck, bias=False)


def cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """(sum over the images, number of images) of the cross-entropy of logits (B, K) at `Batch.class_targets`."""
    total = functional.cross_entropy(logits.float(), targets, reduction="sum")
    return total, torch.full((), float(len(targets)), device=total.device)


def classification_loss(outputs: Outputs, batch: Batch) -> LossParts:
    """Cross-entropy of "logits" as the loss "classification"."""
    return {"classification": cross_entropy(outputs["logits"], batch.class_targets)}


def plain_method(
    name: str, num_classes: int, options: Settings, net: nn.Module, min_side: int = 32, recipe: Recipe = RECIPE
) -> Method:
    """The `Method` of a net that is trained by cross-entropy only; the default is the recipe of all plain nets."""
    return Method(
        name=name,
        num_classes=num_classes,
        options=options.model_dump(mode="json"),
        net=net,
        losses=classification_loss,
        loss_weights={"classification": 1.0},
        recipe=recipe,
        min_side=min_side,
    )


@method("resnet50", PlainOptions)
def build_resnet50(num_classes: int, init: str, options: PlainOptions) -> Method:
    """`Method` of the plain classifier; see `ufgvc.methods.build`."""
    net = pooled_net(build_backbone(options.backbone, init), num_classes, options)
    return plain_method("resnet50", num_classes, options, net)

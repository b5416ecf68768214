"""DCL (Chen et al., CVPR 2019): the net also sees each image with its patches shuffled, and says which it sees and what lies where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ufgvc.core.config import Settings
from ufgvc.data.transfer import to_device
from ufgvc.methods.backbones import build_backbone
from ufgvc.methods.layers.shuffle import Shuffle, cut, match_patches, paste, rearrange, shuffle_chances, shuffle_order
from ufgvc.methods.method import Batch, LossParts, Method, Outputs, method
from ufgvc.methods.recipe import Recipe, Stage
from ufgvc.methods.resnet50 import cross_entropy

Adversary = Literal["binary", "classes"]
LocationTargets = Literal["tracked", "matched"]

# All of it from the released code, for CUB (its loop stops after 359 epochs). Which settings gave the figures on cultivars is
# not recorded anywhere.
RECIPE = Recipe(
    stages=(Stage(epochs=360, lr=8e-4, head_lr_factor=10.0, momentum=0.9, schedule="step", step_epochs=60, gamma=0.1),),
    batch_size=16,
    resize=512,
    crop=448,
    rotate=15.0,
    test_view="center_crop",
)


class DCLWeights(Settings):
    """Weights of the parts of DCL's loss."""

    classification: float = Field(1.0, ge=0, description="weight of the cross-entropy of the classes, of both images")
    adversarial: float = Field(1.0, ge=0, description="weight of the cross-entropy of original against destroyed")
    location: float = Field(
        1.0,
        ge=0,
        description="weight of the error of the patches' places, gamma in the released code (0.01 for cars and aircraft)",
    )


class DCLOptions(Settings):
    """Options of DCL."""

    backbone: str = Field(
        "resnet50", description="a torchvision model by its name, or `timm:<name>` where timm is installed"
    )
    grid: int = Field(7, ge=2, le=32, description="images are cut into grid x grid patches")
    shuffle: Shuffle = Field(
        "jitter",
        description="rows and columns sorted by jittered places as the paper has it, or neighbours swapped as its code does",
    )
    reach: float = Field(2.0, gt=0, description="`jitter`: places are jittered by up to so many patches, either way")
    adversary: Adversary = Field(
        "classes",
        description="original or destroyed is told in 2 outputs, or for each class apart in 2 outputs a class; "
        "the latter also add to the class logits in tests (the released command for CUB)",
    )
    location_targets: LocationTargets = Field(
        "tracked", description="a patch's origin is remembered, or guessed by its brightness as in the released code"
    )
    loss_weights: DCLWeights = Field(DCLWeights(), description="weights of the losses")


class DCLNet(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> "features" (B, C, h, w), "embedding" (B, C), "logits" (B, K), "adversary", "location".

    "adversary": (B, 2) for original, destroyed; or (B, 2K), class y of an original at y and of a destroyed image at K + y.
    In that case the logits in eval mode are the classifier's plus both halves; in training they are the classifier's alone.
    "location": (B, grid * grid) float32 in [-1, 1], where each patch comes from.
    """

    def __init__(self, backbone: nn.Module, channels: int, num_classes: int, grid: int, adversary: Adversary) -> None:
        super().__init__()
        self.grid = grid
        self.by_class = adversary == "classes"
        self.backbone = backbone
        self.classifier = nn.Linear(channels, num_classes, bias=False)
        self.adversary = nn.Linear(channels, 2 * num_classes if self.by_class else 2, bias=False)
        self.location = nn.Conv2d(channels, 1, kernel_size=1)

    def forward(self, images: Tensor) -> Outputs:
        features = self.backbone(images)
        embedding = features.mean(dim=(2, 3))
        logits, adversary = self.classifier(embedding), self.adversary(embedding)
        if self.by_class and not self.training:
            original, destroyed = adversary.chunk(2, dim=1)
            logits = logits + original + destroyed
        # At 448 px and grid 7 the published average over 2 x 2 cells; adaptive, so that other sides work. Below 32 px a patch (224 px at
        # grid 7) several patches share a cell, and their places can not all be told: choose a smaller `grid` there.
        location = functional.adaptive_avg_pool2d(self.location(features).float(), self.grid).flatten(1).tanh()
        return {
            "features": features,
            "embedding": embedding,
            "logits": logits,
            "adversary": adversary,
            "location": location,
        }


def stack_views(batch: Batch, views: list[Tensor], extra: dict[str, Tensor]) -> Batch:
    """The batch with all of these views (B, 3, H, W) in place of its images, view by view, and extra, which has a row for each."""

    def repeat(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: torch.cat([tensor] * len(views)) for name, tensor in tensors.items()}

    return replace(
        batch,
        images=torch.cat(views),
        labels=torch.cat([batch.labels] * len(views)),
        masks=repeat(batch.masks),
        has_mask=repeat(batch.has_mask),
        extra=repeat(batch.extra) | extra,
    )


def location_targets(order: Tensor) -> Tensor:
    """(i - n // 2) / n for the original index i of each patch in an order (B, n): one number in [-0.5, 0.5), not two coordinates."""
    patches = order.shape[1]
    return (order - patches // 2).float() / patches


def dcl_views(batch: Batch, grid: int, shuffle: Shuffle, reach: float, targets: LocationTargets) -> Batch:
    """The images, then the same ones destroyed; extra: "destroyed" (2B,) bool and "location" (2B, grid * grid).

    The released code trims 10 px off the border and resizes the patches; here their pixels stay as they are.
    """
    device = batch.images.device
    order = to_device(shuffle_order(shuffle, batch.chance, grid, reach), device)
    patches = cut(batch.images, grid)
    shuffled = rearrange(patches, order)
    unmoved = torch.arange(grid * grid, device=device).expand_as(order)
    told = order if targets == "tracked" else match_patches(patches, shuffled)
    extra = {
        "destroyed": torch.arange(2, device=device).repeat_interleave(len(order)).bool(),
        "location": location_targets(torch.cat([unmoved, told])),
    }
    return stack_views(batch, [batch.images, paste(shuffled, batch.images)], extra)


def absolute_error(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(sum over the images of their mean absolute error, number of images); both (B, n)."""
    total = (predicted.float() - target).abs().mean(dim=1).sum()
    return total, torch.full((), float(len(target)), device=total.device)


def dcl_losses(outputs: Outputs, batch: Batch, num_classes: int, adversary: Adversary) -> LossParts:
    """Cross-entropy of the class and of original against destroyed, and the error of the patches' places, each over both images."""
    destroyed = batch.extra["destroyed"].long()
    told = batch.labels + num_classes * destroyed if adversary == "classes" else destroyed
    return {
        "classification": cross_entropy(outputs["logits"], batch.labels),
        "adversarial": cross_entropy(outputs["adversary"], told),
        "location": absolute_error(outputs["location"], batch.extra["location"]),
    }


@method("dcl", DCLOptions)
def build_dcl(num_classes: int, init: str, options: DCLOptions) -> Method:
    backbone = build_backbone(options.backbone, init)
    return Method(
        name="dcl",
        num_classes=num_classes,
        options=options.model_dump(mode="json"),
        net=DCLNet(backbone, backbone.channels, num_classes, options.grid, options.adversary),
        losses=partial(dcl_losses, num_classes=num_classes, adversary=options.adversary),
        loss_weights=options.loss_weights.model_dump(),
        recipe=RECIPE,
        head=("classifier", "adversary", "location"),
        views=partial(
            dcl_views, grid=options.grid, shuffle=options.shuffle, reach=options.reach, targets=options.location_targets
        ),
        chances=shuffle_chances(options.shuffle, options.grid),
        images_forwarded=2.0,
        min_side=max(32, options.grid),
    )

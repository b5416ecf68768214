"""DCL, destruction and construction learning (Chen et al., CVPR 2019).

Each image is also shown with its patches shuffled; besides the class, the net predicts whether an image is shuffled and
where each patch comes from.
"""

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
from ufgvc.methods.layers.shuffle import (
    Shuffle,
    match_patches,
    num_shuffle_uniforms,
    paste_patches,
    permute_patches,
    shuffle_order,
    split_patches,
)
from ufgvc.methods.method import Batch, LossParts, Method, Outputs, method
from ufgvc.methods.recipe import Recipe, Stage
from ufgvc.methods.resnet50 import cross_entropy

Adversary = Literal["binary", "classes"]
LocationTargets = Literal["tracked", "matched"]

# The released code's values for CUB (its loop stops after 359 epochs). The settings behind the published figures on
# cultivars are not recorded anywhere.
RECIPE = Recipe(
    stages=(Stage(epochs=360, lr=8e-4, head_lr_factor=10.0, momentum=0.9, schedule="step", step_epochs=60, gamma=0.1),),
    batch_size=16,
    resize=512,
    crop=448,
    rotate=15.0,
    eval_view="center_crop",
)


class DCLWeights(Settings):
    """Weights of DCL's losses."""

    classification: float = Field(1.0, ge=0, description="weight of the cross-entropy of the classes, over both views")
    adversarial: float = Field(1.0, ge=0, description="weight of the cross-entropy of original against shuffled")
    location: float = Field(
        1.0,
        ge=0,
        description="weight of the L1 error of the patches' locations (released code: 0.01 for cars and aircraft)",
    )


class DCLOptions(Settings):
    """Options of DCL."""

    backbone: str = Field("resnet50", description="name of a torchvision model, efficientnet_lite0, or `timm:<name>`")
    grid: int = Field(7, ge=2, le=32, description="images are split into grid x grid patches")
    shuffle: Shuffle = Field(
        "jitter",
        description="jitter: rows and columns are sorted by jittered indices, as in the paper; coded: neighbours are "
        "swapped, as in the released code",
    )
    reach: float = Field(
        2.0, gt=0, description="`jitter`: indices are jittered by up to this many patches in both directions"
    )
    adversary: Adversary = Field(
        "classes",
        description="binary: 2 outputs for original or shuffled; classes: 2 outputs for each class, also added to the "
        "class logits in evaluation (the released command for CUB)",
    )
    location_targets: LocationTargets = Field(
        "tracked",
        description="tracked: a patch's true origin; matched: the patch of nearest brightness, as in the released code",
    )
    loss_weights: DCLWeights = Field(DCLWeights(), description="weights of the losses")


class DCLNet(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> Outputs.

    "features" (B, C, h, w), "embedding" (B, C), "logits" (B, K).
    "adversary": (B, 2) for original, shuffled; with `classes` (B, 2K), class y of an original image at y and
    of a shuffled one at K + y. With `classes` the logits in eval mode are the classifier's plus both halves; in
    training mode they are the classifier's only.
    "location": (B, grid * grid) float32 in [-1, 1], the predicted origin of each patch (the paper's region alignment
    network).
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
        """Images (B, 3, H, W) in [0, 1] -> logits (B, K) and the outputs of the auxiliary heads."""
        features = self.backbone(images)
        embedding = features.mean(dim=(2, 3))
        logits, adversary = self.classifier(embedding), self.adversary(embedding)
        if self.by_class and not self.training:
            original, shuffled = adversary.chunk(2, dim=1)
            logits = logits + original + shuffled
        # At 448 px and grid 7 this is the published average over 2 x 2 cells; adaptive, so that other sizes work. With
        # less than 32 px a patch (224 px at grid 7) several patches share a cell and cannot be distinguished: use a
        # smaller `grid`.
        location = functional.adaptive_avg_pool2d(self.location(features).float(), self.grid).flatten(1).tanh()
        return {
            "features": features,
            "embedding": embedding,
            "logits": logits,
            "adversary": adversary,
            "location": location,
        }


def stack_views(batch: Batch, views: list[Tensor], extra: dict[str, Tensor]) -> Batch:
    """The batch with V views of its images: images (V * B, 3, H, W) view by view, all else repeated.

    views: V tensors (B, 3, H, W).  extra: tensors with V * B rows, added to the batch's own.
    """

    def repeat(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: torch.cat([tensor] * len(views)) for name, tensor in tensors.items()}

    return replace(
        batch,
        images=torch.cat(views),
        labels=torch.cat([batch.labels] * len(views)),
        targets=None if batch.targets is None else torch.cat([batch.targets] * len(views)),
        masks=repeat(batch.masks),
        has_mask=repeat(batch.has_mask),
        extra=repeat(batch.extra) | extra,
    )


def location_targets(order: Tensor) -> Tensor:
    """Targets (B, n) in [-0.5, 0.5) for an order (B, n) of patches: (i - n // 2) / n for the original index i.

    One number a patch as in the released code, not two coordinates as in the paper.
    """
    patches = order.shape[1]
    return (order - patches // 2).float() / patches


def dcl_views(batch: Batch, grid: int, shuffle: Shuffle, reach: float, targets: LocationTargets) -> Batch:
    """The images, then the same images shuffled (the paper's region confusion mechanism).

    Adds to `extra`: "shuffled" (2B,) bool and "location" (2B, grid * grid).
    The released code crops 10 px off the border and resizes the patches; here pixels are not resampled.
    """
    device = batch.images.device
    order = to_device(shuffle_order(shuffle, batch.uniforms, grid, reach), device)
    patches = split_patches(batch.images, grid)
    shuffled = permute_patches(patches, order)
    identity = torch.arange(grid * grid, device=device).expand_as(order)
    origin = order if targets == "tracked" else match_patches(patches, shuffled)
    extra = {
        "shuffled": torch.arange(2, device=device).repeat_interleave(len(order)).bool(),
        "location": location_targets(torch.cat([identity, origin])),
    }
    return stack_views(batch, [batch.images, paste_patches(shuffled, batch.images)], extra)


def absolute_error(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(sum over the images of the mean absolute error, number of images) of predicted and target, both (B, n)."""
    total = (predicted.float() - target).abs().mean(dim=1).sum()
    return total, torch.full((), float(len(target)), device=total.device)


def dcl_losses(outputs: Outputs, batch: Batch, num_classes: int, adversary: Adversary) -> LossParts:
    """The paper's L_cls "classification", L_adv "adversarial" and L_loc "location", each over both views.

    Softened labels soften the classes only: that a view is shuffled stays certain, and so do the patches' places.
    """
    shuffled = batch.extra["shuffled"].long()
    if adversary == "binary":
        targets = shuffled
    elif batch.targets is None:
        targets = batch.labels + num_classes * shuffled
    else:
        targets = torch.cat([batch.targets * (1 - shuffled)[:, None], batch.targets * shuffled[:, None]], dim=1)
    return {
        "classification": cross_entropy(outputs["logits"], batch.class_targets),
        "adversarial": cross_entropy(outputs["adversary"], targets),
        "location": absolute_error(outputs["location"], batch.extra["location"]),
    }


@method("dcl", DCLOptions)
def build_dcl(num_classes: int, init: str, options: DCLOptions) -> Method:
    """`Method` of DCL; see `ufgvc.methods.build`."""
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
        num_uniforms=num_shuffle_uniforms(options.shuffle, options.grid),
        images_forwarded=2.0,
        min_side=max(32, options.grid),
        added_heads=("adversary",) if options.adversary == "classes" else (),
    )

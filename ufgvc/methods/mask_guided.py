"""The paper's method: attention maps that are trained on masks of regions (paper sections III-B and III-C)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional

from ufgvc.core.config import Settings, unique_or_none
from ufgvc.core.errors import UserError
from ufgvc.core.region_names import PAPER_REGIONS, RegionName
from ufgvc.data.crops import pool_mask
from ufgvc.methods.backbones import build_backbone
from ufgvc.methods.layers.attention import Activation, MaskAttention, Statistics, fuse, layer_name
from ufgvc.methods.layers.mask_controls import MaskControl, mask_views
from ufgvc.methods.method import Batch, LossParts, Method, Outputs, method
from ufgvc.methods.recipe import Recipe, Stage
from ufgvc.methods.region_weights import Fusion, LossWeights, Variant, choose_weights
from ufgvc.methods.resnet50 import cross_entropy

RECIPES: dict[Variant, Recipe] = {
    # Learning rate, momentum, schedule and transforms as in the text. It says that the rest is "almost the same" as in
    # DCL, whose code has new layers at 10 times the rate, batches of 16, 360 epochs and no weight decay.
    "paper": Recipe(
        stages=(
            Stage(
                epochs=360, lr=3e-3, head_lr_factor=10.0, momentum=0.938, schedule="step", step_epochs=100, gamma=0.1
            ),
        ),
        batch_size=16,
        resize=512,
        crop=448,
        eval_view="resize",
    ),
    "released_code": Recipe(
        stages=(Stage(epochs=300, lr=8e-4, momentum=0.938, schedule="step", step_epochs=60, gamma=0.13),),
        batch_size=16,
        resize=512,
        crop=448,
        eval_view="center_crop",
    ),
}


class MaskGuidedControl(MaskControl):
    """Control experiments of the mask-guided classifier."""

    maps: Literal["separate", "shared"] = Field(
        "separate",
        description="shared: one convolution for all regions, as in the released code, so their maps are equal",
    )
    statistics: Statistics = Field(
        "mean_max", description="all: the attention is computed from all channels instead of their mean and maximum"
    )
    gain: float = Field(1.0, gt=0, description="the fused map is multiplied by this constant")


class MaskGuidedOptions(Settings):
    """Options of the mask-guided classifier."""

    backbone: str = Field("resnet50", description="name of a torchvision model, efficientnet_lite0, or `timm:<name>`")
    regions: tuple[RegionName, ...] | None = Field(
        None,
        description="regions with an attention map; empty: plain features; default: all of the data set (vein contour)",
    )
    activation: Activation = Field(
        "sigmoid",
        description="of the attention: softmax is the paper's Eq. 4, which hardly learns; softmax_peak divides "
        "it by its maximum",
    )
    variant: Variant = Field(
        "paper",
        description="learning rate, schedule, evaluation view and weights of the paper's text or of its released code",
    )
    fusion: Fusion = Field(Fusion(), description="weights of the fused map")
    loss_weights: LossWeights = Field(LossWeights(), description="weights of the losses")
    control: MaskGuidedControl = Field(MaskGuidedControl(), description="control experiments")

    _each_once = field_validator("regions")(unique_or_none)


def attention_target(mask: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Target of an attention map (M_gt of Eq. 7): the mask's mean over each cell, divided by its maximum.

    mask: (B, 1, H, W) uint8 of 0 and 1, or float in [0, 1].  size: (h, w) of the attention map.
    Returns the target (B, 1, h, w) in [0, 1] with maximum 1, and (B,) bool: False for empty masks, whose target is 0.
    """
    counted = pool_mask(mask, size) if mask.dtype == torch.uint8 else None  # in a tenth of the time
    target = functional.adaptive_avg_pool2d(mask.float(), size) if counted is None else counted
    peak = target.amax(dim=(1, 2, 3), keepdim=True)
    nonempty = peak > 0
    return torch.where(nonempty, target / peak.clamp(min=torch.finfo(target.dtype).tiny), 0.0), nonempty.flatten()


class MaskGuidedNet(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> Outputs.

    "features" F (B, C, h, w), "attention" {region: A_r (B, 1, h, w)}, "fused" F' (B, C, h, w), "embedding" (B, C),
    "logits" (B, K).  base, fusion: weights of the plain features and of each region's (Eq. 5).
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: int,
        num_classes: int,
        base: float,
        fusion: Mapping[str, float],
        options: MaskGuidedOptions,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.base, self.fusion, self.gain = base, dict(fusion), options.control.gain
        # One convolution for each region; the released code shares one, so its two maps are equal.
        shared = options.control.maps == "shared"
        self.layer_of = {region: "shared" if shared else layer_name(region) for region in fusion}
        self.attention = nn.ModuleDict(
            {
                name: MaskAttention(options.activation, options.control.statistics, channels)
                for name in dict.fromkeys(self.layer_of.values())
            }
        )
        self.classifier = nn.Linear(channels, num_classes, bias=False)

    def forward(self, images: Tensor) -> Outputs:
        """Images (B, 3, H, W) in [0, 1] -> logits (B, K), attention maps, fused and plain features (Eq. 2 to 6)."""
        features = self.backbone(images)
        attention = {region: self.attention[layer](features) for region, layer in self.layer_of.items()}
        weights = {region: self.gain * weight for region, weight in self.fusion.items()}
        fused = fuse(features, attention, self.gain * self.base, weights)
        embedding = fused.mean(dim=(2, 3))
        logits = self.classifier(embedding)
        return {"features": features, "attention": attention, "fused": fused, "embedding": embedding, "logits": logits}


def region_target(batch: Batch, region: str, attention: Tensor) -> tuple[Tensor, Tensor]:
    """`attention_target` of a batch's masks for an attention map (B, 1, h, w), and (B,) bool: images that have the
    mask.

    UserError if the batch has no masks of the region.
    """
    if region not in batch.masks:
        raise UserError(
            f"training needs the {region} masks", fix=f"make them with `ufgvc mask`, or remove {region} from `regions`"
        )
    target, has = attention_target(batch.masks[region], (attention.shape[2], attention.shape[3]))
    target = target.to(attention.dtype)
    return target, has & batch.has_mask[region] if region in batch.has_mask else has


def mask_guided_losses(outputs: Outputs, batch: Batch, regions: tuple[str, ...]) -> LossParts:
    """Cross-entropy "classification", and for each region the mean squared error of its attention map (Eq. 7).

    Images without a mask of the region do not count for its loss.
    """
    parts = {"classification": cross_entropy(outputs["logits"], batch.class_targets)}
    for region in regions:
        attention = outputs["attention"][region]
        target, has = region_target(batch, region, attention)
        error = (attention - target).square().sum(dim=(1, 2, 3))
        cells = attention.shape[2] * attention.shape[3]
        parts[region] = (torch.where(has, error, 0.0).sum(), has.sum().to(error.dtype) * cells)
    return parts


@method("mask_guided", MaskGuidedOptions)
def build_mask_guided(num_classes: int, init: str, options: MaskGuidedOptions) -> Method:
    """`Method` of the mask-guided classifier; see `ufgvc.methods.build`."""
    regions = PAPER_REGIONS if options.regions is None else options.regions
    weights = choose_weights(options.variant, regions, options.fusion, options.loss_weights)
    # A saved model records the regions and weights that it was trained with, not that they were the defaults.
    fusion, loss_weights = weights.settings
    options = options.model_copy(update={"regions": regions, "fusion": fusion, "loss_weights": loss_weights})
    backbone = build_backbone(options.backbone, init)
    # The released code trains the attention at the backbone's rate; by the text ("as DCL") all new layers have a higher
    # one.
    head = ("classifier", "attention") if options.variant == "paper" else ("classifier",)
    return Method(
        name="mask_guided",
        num_classes=num_classes,
        options=options.model_dump(mode="json"),
        net=MaskGuidedNet(backbone, backbone.channels, num_classes, weights.base, weights.fusion, options),
        losses=partial(mask_guided_losses, regions=regions),
        loss_weights={"classification": weights.classification, **weights.losses},
        recipe=RECIPES[options.variant],
        head=head,
        regions=regions,
        views=mask_views(options.control.guide),
        last_map="fused",
    )

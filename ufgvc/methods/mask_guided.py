"""The paper's method: masks of veins and contour teach the net where to look (paper III-B and III-C)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional

from ufgvc.core.config import Settings, unique
from ufgvc.core.errors import UserError
from ufgvc.core.types import Region
from ufgvc.methods.backbones import build_backbone
from ufgvc.methods.layers.attention import Activation, MaskAttention, Statistics, fuse
from ufgvc.methods.layers.mask_controls import Guide, guided_by
from ufgvc.methods.method import Batch, LossParts, Method, Outputs, method
from ufgvc.methods.recipe import Recipe, Stage
from ufgvc.methods.resnet50 import cross_entropy

Reading = Literal["paper", "released_code"]

RECIPES: dict[Reading, Recipe] = {
    # Rate, momentum, schedule and transforms are the text's. It gives the rest as "almost the same" as DCL, whose code has
    # new layers at 10 times the rate, batches of 16, 360 epochs and no weight decay.
    "paper": Recipe(
        stages=(
            Stage(
                epochs=360, lr=3e-3, head_lr_factor=10.0, momentum=0.938, schedule="step", step_epochs=100, gamma=0.1
            ),
        ),
        batch_size=16,
        resize=512,
        crop=448,
        test_view="resize",
    ),
    "released_code": Recipe(
        stages=(Stage(epochs=300, lr=8e-4, momentum=0.938, schedule="step", step_epochs=60, gamma=0.13),),
        batch_size=16,
        resize=512,
        crop=448,
        test_view="center_crop",
    ),
}


class Fusion(Settings):
    """Weights of the fused map F' = base F + vein A_vein F + contour A_contour F. An empty one is taken from the reading.

    They are rescaled to sum to 1 over the base and the regions in use.
    """

    base: float | None = Field(None, ge=0, description="weight of the plain features (paper: 0.3)")
    vein: float | None = Field(None, ge=0, description="weight of the features under the vein attention (paper: 0.5)")
    contour: float | None = Field(
        None, ge=0, description="weight of the features under the contour attention (paper: 0.2)"
    )


class LossWeights(Settings):
    """Weights of the parts of the loss. An empty one is taken from the reading."""

    classification: float | None = Field(None, ge=0, description="weight of the cross-entropy (paper: 1)")
    vein: float | None = Field(None, ge=0, description="weight of the vein attention's squared error (paper: 0.1)")
    contour: float | None = Field(
        None, ge=0, description="weight of the contour attention's squared error (paper: 0.1)"
    )


class MaskGuidedOptions(Settings):
    """Options of the mask-guided classifier."""

    backbone: str = Field(
        "resnet50", description="a torchvision model by its name, or `timm:<name>` where timm is installed"
    )
    regions: tuple[Region, ...] = Field(
        ("vein", "contour"), description="the regions whose masks guide the net; none: plain features"
    )
    activation: Activation = Field(
        "sigmoid",
        description="of the attention: softmax is the paper's Eq. 4, which hardly learns; softmax_peak divides it by its maximum",
    )
    reading: Reading = Field(
        "paper",
        description="learning rate, schedule, test view and weights as the paper's text or as its released code has them",
    )
    fusion: Fusion = Field(Fusion(), description="weights of the fused map")
    loss_weights: LossWeights = Field(LossWeights(), description="weights of the losses")
    maps: Literal["separate", "shared"] = Field(
        "separate",
        description="control: shared has one convolution for all regions, as the released code, whose maps are then the same",
    )
    statistics: Statistics = Field(
        "mean_max", description="control: all lets the attention see every channel instead of mean and maximum"
    )
    guide: Guide = Field(
        "mask", description="control: what guides the attention; shuffled: another leaf's masks; centre: a round blob"
    )
    gain: float = Field(1.0, gt=0, description="control: the fused map is multiplied by this constant")

    _each_once = field_validator("regions")(unique)


def published_weights(reading: Reading, regions: tuple[str, ...]) -> tuple[dict[str, float], dict[str, float]]:
    """(fusion weights, loss weights) as the text or the released code has them for these regions."""
    if reading == "paper":
        return {"base": 0.3, "vein": 0.5, "contour": 0.2}, {"classification": 1.0, "vein": 0.1, "contour": 0.1}
    if len(regions) == 1:
        return {"base": 0.65, "vein": 0.35, "contour": 0.35}, {"classification": 1.0, "vein": 0.2, "contour": 0.2}
    return {"base": 0.2, "vein": 0.7, "contour": 0.1}, {"classification": 1.0, "vein": 0.1, "contour": 0.1}


def chosen_weights(options: MaskGuidedOptions) -> tuple[dict[str, float], dict[str, float]]:
    """(fusion weights that sum to 1, loss weights) of the base or classification and of the regions in use."""
    fusion, losses = published_weights(options.reading, options.regions)
    fusion |= options.fusion.model_dump(exclude_none=True)
    losses |= options.loss_weights.model_dump(exclude_none=True)
    fusion = {name: fusion[name] for name in ("base", *options.regions)}
    total = sum(fusion.values())
    if total <= 0:
        raise UserError("the fusion weights in use are all 0", where="fusion", fix="give one of them a weight above 0")
    return {name: weight / total for name, weight in fusion.items()}, {
        name: losses[name] for name in ("classification", *options.regions)
    }


def attention_target(mask: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """What an attention map should look like: the mask's mean over each cell, divided by its own maximum.

    mask: (B, 1, H, W) float in [0, 1].  size: (h, w) of the attention map.
    Returns the target (B, 1, h, w) in [0, 1] with maximum 1, and (B,) bool: False where nothing of the mask is left, with a
    target of zeros.
    """
    target = functional.adaptive_avg_pool2d(mask, size)
    peak = target.amax(dim=(1, 2, 3), keepdim=True)
    left = peak > 0
    return torch.where(left, target / peak.clamp(min=torch.finfo(target.dtype).tiny), 0.0), left.flatten()


class MaskGuidedNet(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> "features" F, "attention" {region: A_r (B, 1, h, w)}, "fused" F', "embedding", "logits"."""

    def __init__(
        self,
        backbone: nn.Module,
        channels: int,
        num_classes: int,
        fusion: Mapping[str, float],
        options: MaskGuidedOptions,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.fusion, self.gain = dict(fusion), options.gain
        regions = [region for region in fusion if region != "base"]
        # A convolution for each region: the released code shares one, so that both of its maps are the same.
        self.layer_of = {region: "shared" if options.maps == "shared" else region for region in regions}
        self.attention = nn.ModuleDict(
            {
                name: MaskAttention(options.activation, options.statistics, channels)
                for name in dict.fromkeys(self.layer_of.values())
            }
        )
        self.classifier = nn.Linear(channels, num_classes, bias=False)

    def forward(self, images: Tensor) -> Outputs:
        features = self.backbone(images)
        attention = {region: self.attention[layer](features) for region, layer in self.layer_of.items()}
        fused = fuse(
            features, attention, self.gain * self.fusion["base"], {r: self.gain * self.fusion[r] for r in attention}
        )
        embedding = fused.mean(dim=(2, 3))
        logits = self.classifier(embedding)
        return {"features": features, "attention": attention, "fused": fused, "embedding": embedding, "logits": logits}


def region_target(batch: Batch, region: str, attention: Tensor) -> tuple[Tensor, Tensor]:
    """`attention_target` of a batch's masks for an attention map (B, 1, h, w), and (B,) bool: the images that have that mask.

    UserError if the batch has no masks of that region.
    """
    if region not in batch.masks:
        raise UserError(
            f"training needs the {region} masks", fix=f"make them with `ufgvc mask`, or leave {region} out of `regions`"
        )
    target, has = attention_target(batch.masks[region].to(attention.dtype), (attention.shape[2], attention.shape[3]))
    return target, has & batch.has_mask[region] if region in batch.has_mask else has


def mask_guided_losses(outputs: Outputs, batch: Batch, regions: tuple[str, ...]) -> LossParts:
    """Cross-entropy, and for each region the squared error of its attention to the target (Eq. 7), over the images that have that mask."""
    parts = {"classification": cross_entropy(outputs["logits"], batch.labels)}
    for region in regions:
        attention = outputs["attention"][region]
        target, has = region_target(batch, region, attention)
        error = (attention - target).square().sum(dim=(1, 2, 3))
        cells = attention.shape[2] * attention.shape[3]
        parts[region] = (torch.where(has, error, 0.0).sum(), has.sum().to(error.dtype) * cells)
    return parts


@method("mask_guided", MaskGuidedOptions)
def build_mask_guided(num_classes: int, init: str, options: MaskGuidedOptions) -> Method:
    fusion, loss_weights = chosen_weights(options)
    # The model tells the weights that it was trained with, not that they were left to the reading.
    options = options.model_copy(update={"fusion": Fusion(**fusion), "loss_weights": LossWeights(**loss_weights)})
    backbone = build_backbone(options.backbone, init)
    # In the released code the attention learns at the backbone's rate; the text's "as DCL" raises that of every new layer.
    head = ("classifier", "attention") if options.reading == "paper" else ("classifier",)
    return Method(
        name="mask_guided",
        num_classes=num_classes,
        options=options.model_dump(mode="json"),
        net=MaskGuidedNet(backbone, backbone.channels, num_classes, fusion, options),
        losses=partial(mask_guided_losses, regions=options.regions),
        loss_weights=loss_weights,
        recipe=RECIPES[options.reading],
        head=head,
        regions=options.regions,
        views=guided_by(options.guide),
        last_map="fused",
    )

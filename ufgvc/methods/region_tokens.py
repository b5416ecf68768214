"""Our method with region tokens: one token for the whole leaf and one for each region, each with its own cosine head.

An attention map over all channels locates each region on the finer map (stride 16 in a ResNet); the attention-weighted
mean of the features is the region's token. Unlike a gain on the feature map (`mask_guided`), a token cannot fade,
because the cosine normalises its length. Masks are needed in training only.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional

from ufgvc.core.config import Settings, unique_or_none
from ufgvc.core.region_names import PAPER_REGIONS, RegionName
from ufgvc.methods.backbones import Backbone, build_backbone
from ufgvc.methods.layers.attention import layer_name
from ufgvc.methods.layers.mask_controls import MaskControl, mask_views
from ufgvc.methods.mask_guided import region_target
from ufgvc.methods.method import Batch, LossParts, Method, Outputs, method
from ufgvc.methods.recipe import Recipe, Stage
from ufgvc.methods.resnet50 import cross_entropy

# Of both our methods, so nothing is published: sizes and transforms of mask_guided, the usual momentum, a cosine
# schedule.
RECIPE = Recipe(
    stages=(Stage(epochs=360, lr=3e-3, head_lr_factor=10.0, momentum=0.9, weight_decay=5e-4, schedule="cosine"),),
    batch_size=16,
    resize=512,
    crop=448,
    eval_view="resize",
)


HeadKind = Literal["cosine", "linear"]


class RegionTokensOptions(Settings):
    """Options of the classifier with region tokens."""

    backbone: str = Field("resnet50", description="name of a torchvision model, efficientnet_lite0, or `timm:<name>`")
    regions: tuple[RegionName, ...] | None = Field(
        None,
        description="regions with a token, next to the whole leaf's; default: all of the data set (vein contour)",
    )
    head: HeadKind = Field("cosine", description="head of each token; linear is a control")
    scale: float = Field(16.0, gt=0, description="cosine heads: logits are this factor times the cosine")
    mask_weight: float = Field(
        0.2, ge=0, description="weight of each region's Dice loss; 0: the attention is not trained on masks"
    )
    token_weight: float = Field(1.0, ge=0, description="weight of the mean cross-entropy of the single heads")
    control: MaskControl = Field(MaskControl(), description="control experiments")

    _each_once = field_validator("regions")(unique_or_none)


class TokenHead(nn.Linear):
    """Logits of one token: (B, D) -> (B, K).

    cosine: scale times the cosine of the token and each class's weights, in [-scale, scale].  linear: without bias.
    """

    def __init__(self, channels: int, num_classes: int, kind: HeadKind, scale: float) -> None:
        super().__init__(channels, num_classes, bias=False)
        self.kind, self.scale = kind, scale

    def forward(self, token: Tensor) -> Tensor:
        """Token (B, D) -> logits (B, K)."""
        # Without autocast: multiplied by the scale, bfloat16 would be off by several hundredths.
        with torch.autocast(token.device.type, enabled=False):
            token, weight = token.float(), self.weight
            if self.kind == "linear":
                return functional.linear(token, weight)
            return self.scale * functional.linear(
                functional.normalize(token, dim=1), functional.normalize(weight, dim=1)
            )


def token_losses(outputs: Outputs, targets: Tensor) -> LossParts:
    """Cross-entropies "classification" of "logits" (B, K) and "tokens" of the heads' "token_logits" (B, T, K).

    targets: of `Batch.class_targets`.
    """
    token_logits = outputs["token_logits"]
    repeated = targets.repeat_interleave(token_logits.shape[1], dim=0)
    return {
        "classification": cross_entropy(outputs["logits"], targets),
        "tokens": cross_entropy(token_logits.flatten(0, 1), repeated),
    }


def two_maps(backbone: Backbone, images: Tensor) -> tuple[Tensor, Tensor]:
    """(finer map, last map) of images (B, 3, H, W): layers 3 and 4 of a ResNet; else the last map twice."""
    if not hasattr(backbone.trunk, "layer4"):
        last = backbone(images)
        return last, last
    finer = backbone.normalise(images)
    for name, part in backbone.trunk.named_children():
        if name == "layer4":
            break
        finer = part(finer)
    return finer, backbone.trunk.layer4(finer)  # type: ignore[operator]


class RegionTokensNet(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> Outputs.

    "features" (B, C, h, w), "attention" {region: (B, 1, h, w) in (0, 1)}, "token_logits" (B, 1 + regions, K),
    "embedding" (B, C), the whole leaf's token, "logits" (B, K), the mean of the token logits.
    """

    def __init__(
        self,
        backbone: Backbone,
        finer_channels: int,
        num_classes: int,
        regions: tuple[str, ...],
        options: RegionTokensOptions,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.layer_of = {region: layer_name(region) for region in regions}
        layers = self.layer_of.values()
        self.find = nn.ModuleDict({layer: nn.Conv2d(finer_channels, 1, kernel_size=1) for layer in layers})
        self.heads = nn.ModuleDict(
            {layer: TokenHead(finer_channels, num_classes, options.head, options.scale) for layer in layers}
        )
        self.classifier = TokenHead(backbone.channels, num_classes, options.head, options.scale)

    def forward(self, images: Tensor) -> Outputs:
        """Images (B, 3, H, W) in [0, 1] -> logits (B, K), token logits, attention and features."""
        finer, last = two_maps(self.backbone, images)
        attention = {region: self.find[layer](finer).float().sigmoid() for region, layer in self.layer_of.items()}
        embedding = last.float().mean(dim=(2, 3))
        logits = [self.classifier(embedding)]
        tokens = {region: weighted_mean(finer.float(), weights) for region, weights in attention.items()}
        logits += [self.heads[self.layer_of[region]](token) for region, token in tokens.items()]
        token_logits = torch.stack(logits, dim=1)
        return {
            "features": last,
            "attention": attention,
            "embedding": embedding,
            "token_logits": token_logits,
            "logits": token_logits.mean(dim=1),
        }


def weighted_mean(features: Tensor, weights: Tensor) -> Tensor:
    """Mean (B, C) of features (B, C, h, w) with weights (B, 1, h, w) >= 0; zeros if all weights are 0."""
    total = weights.sum(dim=(2, 3)).clamp(min=torch.finfo(weights.dtype).eps)
    return (features * weights).sum(dim=(2, 3)) / total


def dice_loss(attention: Tensor, target: Tensor) -> Tensor:
    """1 - 2 sum(A T) / (sum(A^2) + sum(T^2)) for each image, (B,) in [0, 1] (V-Net, Milletari et al. 2016).

    attention, target: (B, 1, h, w) in [0, 1].
    """
    overlap = (attention * target).sum(dim=(1, 2, 3))
    return 1 - 2 * overlap / (attention.square().sum(dim=(1, 2, 3)) + target.square().sum(dim=(1, 2, 3))).clamp(
        min=1e-6
    )


def region_tokens_losses(outputs: Outputs, batch: Batch, regions: tuple[str, ...]) -> LossParts:
    """`token_losses`, and for each region the Dice loss of its attention over the images that have its mask."""
    parts = token_losses(outputs, batch.class_targets)
    for region in regions:
        attention = outputs["attention"][region]
        target, has = region_target(batch, region, attention)
        parts[region] = ((dice_loss(attention, target) * has).sum(), has.sum().to(attention.dtype))
    return parts


@method("region_tokens", RegionTokensOptions)
def build_region_tokens(num_classes: int, init: str, options: RegionTokensOptions) -> Method:
    """`Method` of the classifier with region tokens; see `ufgvc.methods.build`."""
    regions = PAPER_REGIONS if options.regions is None else options.regions
    options = options.model_copy(update={"regions": regions})
    backbone = build_backbone(options.backbone, init)
    return Method(
        name="region_tokens",
        num_classes=num_classes,
        options=options.model_dump(mode="json"),
        net=RegionTokensNet(backbone, finer_channels(backbone), num_classes, regions, options),
        losses=partial(region_tokens_losses, regions=regions),
        loss_weights={"classification": 1.0, "tokens": options.token_weight}
        | dict.fromkeys(regions, options.mask_weight),
        recipe=RECIPE,
        head=("classifier", "heads", "find"),
        regions=regions,
        views=mask_views(options.control.guide),
    )


def finer_channels(backbone: Backbone) -> int:
    """Number of channels of the finer map of `two_maps`."""
    if not hasattr(backbone.trunk, "layer4"):
        return backbone.channels  # not all such backbones take images of 64 px
    was_training = backbone.training
    backbone.eval()
    with torch.no_grad():
        channels = two_maps(backbone, torch.zeros(1, 3, 64, 64))[0].shape[1]
    backbone.train(was_training)
    return int(channels)

"""Ours: one token for the whole leaf and one for each region, each with a cosine head of its own.

An attention that sees every channel finds each region on the finer map (stride 16 in a ResNet); the features under it, averaged with
weights that sum to 1, are the region's token. Unlike a gain on the feature map (`mask_guided`), a token can not fade: its length is
normalised away. Masks are needed in training only.
"""

from __future__ import annotations

from functools import partial

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from ufgvc.core.config import Settings, unique
from ufgvc.core.types import Region
from ufgvc.methods.backbones import Backbone, build_backbone
from ufgvc.methods.layers.mask_controls import Guide, guided_by
from ufgvc.methods.layers.tokens import HeadKind, TokenHead, token_losses
from ufgvc.methods.mask_guided import region_target
from ufgvc.methods.method import Batch, LossParts, Method, Outputs, method
from ufgvc.methods.recipe import Recipe, Stage

# Of both methods of ours, so there is nothing published to follow: mask_guided's sizes and transforms, the usual momentum and a cosine.
RECIPE = Recipe(
    stages=(Stage(epochs=360, lr=3e-3, head_lr_factor=10.0, momentum=0.9, weight_decay=5e-4, schedule="cosine"),),
    batch_size=16,
    resize=512,
    crop=448,
    test_view="resize",
)


class RegionTokensOptions(Settings):
    """Options of the classifier with region tokens."""

    backbone: str = Field(
        "resnet50", description="a torchvision model by its name, or `timm:<name>` where timm is installed"
    )
    regions: tuple[Region, ...] = Field(
        ("vein", "contour"), description="the regions that get a token beside the whole leaf's"
    )
    head: HeadKind = Field("cosine", description="of each token; linear is a control")
    scale: float = Field(16.0, gt=0, description="cosine heads: logits are this times the cosine")
    mask_weight: float = Field(
        0.2, ge=0, description="weight of each region's Dice loss; 0 leaves the attention to itself"
    )
    token_weight: float = Field(1.0, ge=0, description="weight of the mean cross-entropy of the single heads")
    guide: Guide = Field(
        "mask", description="control: what guides the attention; shuffled: another leaf's masks; centre: a round blob"
    )

    _each_once = field_validator("regions")(unique)


def two_maps(backbone: Backbone, images: Tensor) -> tuple[Tensor, Tensor]:
    """(finer map, last map): a ResNet's layers 3 and 4; any other backbone gives its last map twice."""
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
    """Images (B, 3, H, W) in [0, 1] -> "features" (the last map), "attention" {region: (B, 1, h, w) in (0, 1)}, "token_logits"
    (B, 1 + regions, K), "embedding" (the whole leaf's token), "logits" (B, K), the mean of the heads'.
    """

    def __init__(self, backbone: Backbone, finer_channels: int, num_classes: int, options: RegionTokensOptions) -> None:
        super().__init__()
        self.backbone = backbone
        self.find = nn.ModuleDict({region: nn.Conv2d(finer_channels, 1, kernel_size=1) for region in options.regions})
        self.heads = nn.ModuleDict(
            {region: TokenHead(finer_channels, num_classes, options.head, options.scale) for region in options.regions}
        )
        self.classifier = TokenHead(backbone.channels, num_classes, options.head, options.scale)

    def forward(self, images: Tensor) -> Outputs:
        finer, last = two_maps(self.backbone, images)
        attention = {region: convolve(finer).float().sigmoid() for region, convolve in self.find.items()}
        embedding = last.float().mean(dim=(2, 3))
        logits = [self.classifier(embedding)]
        logits += [self.heads[region](pooled(finer.float(), where)) for region, where in attention.items()]
        token_logits = torch.stack(logits, dim=1)
        return {
            "features": last,
            "attention": attention,
            "embedding": embedding,
            "token_logits": token_logits,
            "logits": token_logits.mean(dim=1),
        }


def pooled(features: Tensor, weights: Tensor) -> Tensor:
    """Mean of features (B, C, h, w) under weights (B, 1, h, w) >= 0: (B, C). Weights that are 0 everywhere give zeros."""
    total = weights.sum(dim=(2, 3)).clamp(min=torch.finfo(weights.dtype).eps)
    return (features * weights).sum(dim=(2, 3)) / total


def dice_loss(attention: Tensor, target: Tensor) -> Tensor:
    """1 - 2 |A T| / (|A|^2 + |T|^2) for each image (B,), in [0, 1], of maps (B, 1, h, w) in [0, 1] (Milletari et al. 2016)."""
    both = (attention * target).sum(dim=(1, 2, 3))
    return 1 - 2 * both / (attention.square().sum(dim=(1, 2, 3)) + target.square().sum(dim=(1, 2, 3))).clamp(min=1e-6)


def region_tokens_losses(outputs: Outputs, batch: Batch, regions: tuple[str, ...]) -> LossParts:
    """Cross-entropy of the mean logits, mean cross-entropy of the single heads, Dice loss of each region's attention."""
    parts = token_losses(outputs, batch.labels)
    for region in regions:
        attention = outputs["attention"][region]
        target, has = region_target(batch, region, attention)
        parts[region] = ((dice_loss(attention, target) * has).sum(), has.sum().to(attention.dtype))
    return parts


@method("region_tokens", RegionTokensOptions)
def build_region_tokens(num_classes: int, init: str, options: RegionTokensOptions) -> Method:
    backbone = build_backbone(options.backbone, init)
    return Method(
        name="region_tokens",
        num_classes=num_classes,
        options=options.model_dump(mode="json"),
        net=RegionTokensNet(backbone, finer_channels(backbone), num_classes, options),
        losses=partial(region_tokens_losses, regions=options.regions),
        loss_weights={"classification": 1.0, "tokens": options.token_weight}
        | dict.fromkeys(options.regions, options.mask_weight),
        recipe=RECIPE,
        head=("classifier", "heads", "find"),
        regions=options.regions,
        views=guided_by(options.guide),
    )


def finer_channels(backbone: Backbone) -> int:
    """Channels of the finer map of `two_maps`."""
    if not hasattr(backbone.trunk, "layer4"):
        return backbone.channels  # not every such backbone takes a small image
    was_training = backbone.training
    backbone.eval()
    with torch.no_grad():
        channels = two_maps(backbone, torch.zeros(1, 3, 64, 64))[0].shape[1]
    backbone.train(was_training)
    return int(channels)

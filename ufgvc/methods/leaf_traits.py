"""Our method with leaf traits: the mean logits of a network and of hand-made features, each with its own cosine head.

The features are outline and veins in polar coordinates around the leaf's centroid, and colour. They are found like the
masks of kind `structure`, but without boxes, so neither masks nor a detector are needed.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional

from ufgvc.core.config import Settings, unique
from ufgvc.methods.backbones import build_backbone
from ufgvc.methods.layers.leaf_measures import TRAITS, Trait
from ufgvc.methods.layers.leaf_segmentation import erode_leaf, find_leaf
from ufgvc.methods.method import Batch, LossParts, Method, Outputs, method
from ufgvc.methods.region_tokens import RECIPE, HeadKind, TokenHead, token_losses


class LeafTraitsControl(Settings):
    """Control experiments of the classifier with leaf traits."""

    trunk: bool = Field(
        True, description="false: the prediction uses the traits only, the network is trained all the same"
    )


class LeafTraitsOptions(Settings):
    """Options of the classifier with leaf traits."""

    backbone: str = Field("resnet50", description="name of a torchvision model, efficientnet_lite0, or `timm:<name>`")
    traits: tuple[Trait, ...] = Field(
        ("outline", "veins", "colour"), description="traits that are measured; none: the network only"
    )
    head: HeadKind = Field("cosine", description="head of network and traits; linear is a control")
    scale: float = Field(16.0, gt=0, description="cosine heads: logits are this factor times the cosine")
    token_weight: float = Field(1.0, ge=0, description="weight of the mean cross-entropy of the two heads")
    control: LeafTraitsControl = Field(LeafTraitsControl(), description="control experiments")

    _each_once = field_validator("traits")(unique)


class CumulativeBatchNorm(nn.BatchNorm1d):
    """Batch normalisation (B, C) -> (B, C) without affine parameters.

    In training with the batch's statistics, in evaluation with the averages of mean and variance over all training
    batches (torch's `momentum=None`).
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, momentum=None, affine=False)

    def forward(self, values: Tensor) -> Tensor:
        """Values (B, D) -> standardised values (B, D)."""
        if not self.training or values.device.type == "cpu":
            return super().forward(values)
        return self.normalise_without_sync(values)

    def normalise_without_sync(self, values: Tensor) -> Tensor:
        """torch's own forward in training mode, but without reading the number of batches back to the host."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        mean, variance = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        normed = functional.batch_norm(values, mean, variance, training=True, momentum=1.0, eps=self.eps)
        self.num_batches_tracked.add_(1)
        share = self.num_batches_tracked.to(mean.dtype).reciprocal()
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)
        return normed


class LeafTraitsNet(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> Outputs.

    "features" (B, C, h, w), "embedding" (B, C), "token_logits" (B, 2, K) of network and traits (B, 1, K without
    traits), "logits" (B, K), their mean.
    """

    def __init__(self, backbone: nn.Module, channels: int, num_classes: int, options: LeafTraitsOptions) -> None:
        super().__init__()
        self.backbone, self.traits = backbone, options.traits
        self.predicting = slice(1 if options.traits and not options.control.trunk else 0, None)
        self.classifier = TokenHead(channels, num_classes, options.head, options.scale)
        # Features are standardised with statistics of the whole training, because a batch has few images.
        sizes = {trait: TRAITS[trait][0] for trait in options.traits}
        self.standardise = nn.ModuleDict({trait: CumulativeBatchNorm(size) for trait, size in sizes.items()})
        self.heads = nn.ModuleDict(
            {"traits": TokenHead(sum(sizes.values()), num_classes, options.head, options.scale)}
            if options.traits
            else {}
        )

    def forward(self, images: Tensor) -> Outputs:
        """Images (B, 3, H, W) in [0, 1] -> logits (B, K), token logits and features."""
        features = self.backbone(images)
        embedding = features.float().mean(dim=(2, 3))
        logits = [self.classifier(embedding)]
        if self.traits:
            logits.append(self.heads["traits"](self.token(images)))
        token_logits = torch.stack(logits, dim=1)
        return {
            "features": features,
            "embedding": embedding,
            "token_logits": token_logits,
            "logits": token_logits[:, self.predicting].mean(dim=1),
        }

    def token(self, images: Tensor) -> Tensor:
        """All traits in use as one vector (B, sum of their dims) float32; each trait is scaled by 1 / sqrt(dim)."""
        traits = {trait: self.standardise[trait](values) for trait, values in self.measure(images).items()}
        return torch.cat([values / math.sqrt(values.shape[1]) for values in traits.values()], dim=1)

    @torch.no_grad()
    def measure(self, images: Tensor) -> dict[str, Tensor]:
        """{trait: (B, dim)} float32 of the traits in use; without parameters."""
        with torch.autocast(images.device.type, enabled=False):
            images = images.float()
            leaf = find_leaf(images)
            interior = erode_leaf(leaf)
            return {trait: TRAITS[trait][1](images, leaf, interior) for trait in self.traits}


def leaf_traits_losses(outputs: Outputs, batch: Batch) -> LossParts:
    """`token_losses` of network and traits."""
    return token_losses(outputs, batch.class_targets)


@method("leaf_traits", LeafTraitsOptions)
def build_leaf_traits(num_classes: int, init: str, options: LeafTraitsOptions) -> Method:
    """`Method` of the classifier with leaf traits; see `ufgvc.methods.build`."""
    backbone = build_backbone(options.backbone, init)
    return Method(
        name="leaf_traits",
        num_classes=num_classes,
        options=options.model_dump(mode="json"),
        net=LeafTraitsNet(backbone, backbone.channels, num_classes, options),
        losses=leaf_traits_losses,
        loss_weights={"classification": 1.0, "tokens": options.token_weight},
        recipe=RECIPE,
        head=("classifier", "heads"),
        whole_leaf=True,
    )

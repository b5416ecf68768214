"""Ours: what a botanist would measure of a leaf, beside what a trunk sees of it; both with a cosine head of their own.

The outline and the veins in polar coordinates about the leaf's middle, and its colour. They are found as the masks of kind `structure`
are (what differs from the background, bright lines within it) but without boxes, so neither masks nor a detector are needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from ufgvc.core.config import Settings, unique
from ufgvc.methods.backbones import build_backbone
from ufgvc.methods.layers.average_norm import AverageNorm
from ufgvc.methods.layers.leaf_segmentation import erode_leaf, find_leaf, mean_inside, ridges
from ufgvc.methods.layers.polar import polar, spectrum
from ufgvc.methods.layers.tokens import HeadKind, TokenHead, token_losses
from ufgvc.methods.method import Batch, LossParts, Method, Outputs, method
from ufgvc.methods.region_tokens import RECIPE

Trait = Literal["outline", "veins", "colour"]
HARMONICS = 12
SOFT = 1e-3  # of a harmonic's size; without it the root would turn the rounding of what is 0 into a trait


class LeafTraitsOptions(Settings):
    """Options of the classifier with leaf traits."""

    backbone: str = Field(
        "resnet50", description="a torchvision model by its name, or `timm:<name>` where timm is installed"
    )
    traits: tuple[Trait, ...] = Field(
        ("outline", "veins", "colour"), description="what is measured; none: the trunk alone"
    )
    head: HeadKind = Field("cosine", description="of trunk and traits; linear is a control")
    scale: float = Field(16.0, gt=0, description="cosine heads: logits are this times the cosine")
    token_weight: float = Field(1.0, ge=0, description="weight of the mean cross-entropy of the two heads")
    trunk: bool = Field(True, description="control: false leaves the trunk's head out of the prediction")

    _each_once = field_validator("traits")(unique)


def outline(images: Tensor, leaf: Tensor, inside: Tensor) -> Tensor:
    """How the leaf (B, 1, H, W) fills 12 rings out to 2.2 radii: (B, 144), softened root of the size of each ring's harmonics."""
    rings = polar(leaf, leaf, rings=24, reach=2.2).unflatten(2, (12, 2)).mean(dim=3)
    return (spectrum(rings, HARMONICS).flatten(1) + SOFT).sqrt()


def veins(images: Tensor, leaf: Tensor, inside: Tensor) -> Tensor:
    """How bright lines fill 5 rings out to 1.4 radii: (B, 60), softened root of the size of each ring's harmonics."""
    rings = polar(ridges(images, inside), leaf, rings=15, reach=1.4).unflatten(2, (5, 3)).mean(dim=3)
    return (spectrum(rings, HARMONICS).flatten(1) + SOFT).sqrt()


def colour(images: Tensor, leaf: Tensor, inside: Tensor) -> Tensor:
    """Means over the leaf without its rim: the shares of red and green, and the brightness; (B, 3) in [0, 1]."""
    shares = images / images.sum(dim=1, keepdim=True).clamp(min=1e-6)
    seen = torch.cat([shares[:, :2], images.mean(dim=1, keepdim=True)], dim=1)
    return mean_inside(seen, inside).flatten(1)


# How many numbers a trait has, and what measures it: (images (B, 3, H, W), leaf (B, 1, H, W), the leaf without its rim) -> (B, numbers).
MEASURES: dict[Trait, tuple[int, Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "outline": (12 * HARMONICS, outline),
    "veins": (5 * HARMONICS, veins),
    "colour": (3, colour),
}


class LeafTraitsNet(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> "features", "embedding" (the trunk's token), "token_logits" (B, 2, K) of trunk and traits (one
    token without traits), "logits" (B, K), their mean.
    """

    def __init__(self, backbone: nn.Module, channels: int, num_classes: int, options: LeafTraitsOptions) -> None:
        super().__init__()
        self.backbone, self.traits = backbone, options.traits
        self.heard = slice(1 if options.traits and not options.trunk else 0, None)
        self.classifier = TokenHead(channels, num_classes, options.head, options.scale)
        # A trait's numbers have units of their own: each is told in standard deviations, averaged over the whole training, because a
        # batch has few leaves. Whether a trait is told in 3 numbers or in 144, it weighs the same.
        sizes = {trait: MEASURES[trait][0] for trait in options.traits}
        self.standardise = nn.ModuleDict({trait: AverageNorm(size) for trait, size in sizes.items()})
        self.heads = nn.ModuleDict(
            {"traits": TokenHead(sum(sizes.values()), num_classes, options.head, options.scale)}
            if options.traits
            else {}
        )

    def forward(self, images: Tensor) -> Outputs:
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
            "logits": token_logits[:, self.heard].mean(dim=1),
        }

    def token(self, images: Tensor) -> Tensor:
        """All traits in use as one vector, float32."""
        told = {trait: self.standardise[trait](values) for trait, values in self.measure(images).items()}
        return torch.cat([values / math.sqrt(values.shape[1]) for values in told.values()], dim=1)

    @torch.no_grad()
    def measure(self, images: Tensor) -> dict[str, Tensor]:
        """{trait: (B, its numbers)} float32 of the traits in use; nothing here learns."""
        with torch.autocast(images.device.type, enabled=False):
            images = images.float()
            leaf = find_leaf(images)
            inside = erode_leaf(leaf)
            return {trait: MEASURES[trait][1](images, leaf, inside) for trait in self.traits}


def leaf_traits_losses(outputs: Outputs, batch: Batch) -> LossParts:
    return token_losses(outputs, batch.labels)


@method("leaf_traits", LeafTraitsOptions)
def build_leaf_traits(num_classes: int, init: str, options: LeafTraitsOptions) -> Method:
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
    )

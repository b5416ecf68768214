"""A linear classifier on a frozen backbone: mean and standard deviation of several stages' maps, fitted in seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from ufgvc.core.config import Settings, unique
from ufgvc.core.region_names import RegionName
from ufgvc.methods.backbones import Backbone, build_backbone
from ufgvc.methods.layers.region_finder import RegionFinder
from ufgvc.methods.layers.stages import StageMaps, choose_stages, list_stages, region_statistics
from ufgvc.methods.method import Method, Outputs, method
from ufgvc.methods.recipe import Recipe, Stage
from ufgvc.methods.resnet50 import plain_method

# The stage is for whoever trains the classifier by gradient steps in spite of `classifier_fit`, as tests do.
RECIPE = Recipe(
    stages=(Stage(epochs=1, lr=0.01, frozen=("backbone",)),),
    classifier_fit=True,
    batch_size=32,
    resize=448,
    crop=448,
    mirror=True,
)


class ProbeOptions(Settings):
    """Options of all linear classifiers on a frozen backbone."""

    backbone: str = Field(
        "efficientnet_lite0", description="name of a torchvision model, efficientnet_lite0, or `timm:<name>`"
    )
    stages: tuple[int, ...] = Field(
        (), description="stages of the backbone whose maps are pooled, counted from 1; empty: all of stride 8 or more"
    )


class LinearProbeOptions(ProbeOptions):
    """Options of the linear classifier on statistics of the whole picture, and of regions in it."""

    regions: tuple[RegionName, ...] = Field(
        (),
        description="regions of the data set (vein, contour) whose statistics are further features; training needs "
        "their masks (`ufgvc mask`), prediction finds them by itself",
    )

    _each_once = field_validator("regions")(unique)


class ProbeNet(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> "features" (B, C, h, w), "embedding" (B, D), "logits" (B, K).

    features: the map of the last stage that is pooled.  embedding: the statistics of the stages' maps inside the
    regions, standardised with `mean` and `scale` (D,), which are set when the classifier is fitted.
    regions: images -> weights (B, R, H, W).  num_regions: R.  finder: of F further regions; None: there are none.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        backbone: Backbone,
        maps: StageMaps,
        regions: Callable[[Tensor], Tensor],
        num_regions: int,
        num_classes: int,
        finder: RegionFinder | None = None,
    ) -> None:
        super().__init__()
        found = 0 if finder is None else len(finder.bias)
        width = 2 * (num_regions + found) * sum(maps.channels)
        self.backbone = backbone
        self.maps, self.regions, self.finder = maps, regions, finder
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Outputs:
        """Images (B, 3, H, W) in [0, 1] -> logits (B, K), embedding and features."""
        maps = self.maps.run(self.backbone, images)
        regions = self.regions(images)
        if self.finder is not None:
            regions = torch.cat([regions, self.finder(maps, images.shape[2:])], dim=1)
        embedding = (region_statistics(maps, regions) - self.mean) / self.scale
        return {"features": maps[-1], "embedding": embedding, "logits": self.classifier(embedding)}


def whole_image(images: Tensor) -> Tensor:
    """One region that is everywhere: (B, 3, H, W) -> ones (B, 1, H, W)."""
    return torch.ones_like(images[:, :1])


@method("linear_probe", LinearProbeOptions)
def build_linear_probe(num_classes: int, init: str, options: LinearProbeOptions) -> Method:
    """`Method` of the linear probe; see `ufgvc.methods.build`.

    With `regions` a linear finder of these is fitted to the masks of the training leaves before the classifier
    (`RegionFinder`), and finds them at training and at prediction alike, so the saved net needs neither masks nor a
    detector. A leaf in which a region is not found gets the whole picture's statistics for it.
    """
    backbone = build_backbone(options.backbone, init)
    maps = StageMaps(choose_stages(list_stages(backbone), options.stages, with_last=True))
    finder = RegionFinder(maps.channels, len(options.regions)) if options.regions else None
    net = ProbeNet(backbone, maps, whole_image, 1, num_classes, finder)
    made = plain_method("linear_probe", num_classes, options, net, recipe=RECIPE)
    return replace(made, regions=tuple(options.regions))

"""A linear classifier on a frozen backbone: mean and standard deviation of several stages' maps, fitted in seconds."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor, nn

from ufgvc.core.config import Settings
from ufgvc.methods.backbones import Backbone, build_backbone
from ufgvc.methods.layers.stages import StageMaps, choose_stages, list_stages, region_statistics
from ufgvc.methods.method import Method, Outputs, method
from ufgvc.methods.recipe import Recipe, Stage
from ufgvc.methods.resnet50 import classification_loss

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
    """Options of the linear classifier on a frozen backbone."""

    backbone: str = Field(
        "efficientnet_lite0", description="name of a torchvision model, efficientnet_lite0, or `timm:<name>`"
    )
    stages: tuple[int, ...] = Field(
        (), description="stages of the backbone whose maps are pooled, counted from 1; empty: all of stride 8 or more"
    )


class ProbeNet(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> "features" (B, C, h, w), "embedding" (B, D), "logits" (B, K).

    features: the map of the last stage that is pooled.  embedding: the statistics of the stages' maps inside the
    regions, standardised with `mean` and `scale` (D,), which are set when the classifier is fitted.
    regions: images -> weights (B, R, H, W).  num_regions: R.
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
    ) -> None:
        super().__init__()
        width = 2 * num_regions * sum(maps.channels)
        self.backbone = backbone
        self.maps, self.regions = maps, regions
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Outputs:
        """Images (B, 3, H, W) in [0, 1] -> logits (B, K), embedding and features."""
        maps = self.maps.run(self.backbone, images)
        embedding = (region_statistics(maps, self.regions(images)) - self.mean) / self.scale
        return {"features": maps[-1], "embedding": embedding, "logits": self.classifier(embedding)}


def whole_image(images: Tensor) -> Tensor:
    """One region that is everywhere: (B, 3, H, W) -> ones (B, 1, H, W)."""
    return torch.ones_like(images[:, :1])


def probe_method(name: str, num_classes: int, options: Settings, net: ProbeNet, recipe: Recipe) -> Method:
    """The `Method` of a net whose classifier is fitted on the embeddings of its frozen backbone."""
    return Method(
        name=name,
        num_classes=num_classes,
        options=options.model_dump(mode="json"),
        net=net,
        losses=classification_loss,
        loss_weights={"classification": 1.0},
        recipe=recipe,
    )


@method("linear_probe", ProbeOptions)
def build_linear_probe(num_classes: int, init: str, options: ProbeOptions) -> Method:
    """`Method` of the linear probe; see `ufgvc.methods.build`."""
    backbone = build_backbone(options.backbone, init)
    maps = StageMaps(choose_stages(list_stages(backbone), options.stages, with_last=True))
    net = ProbeNet(backbone, maps, whole_image, 1, num_classes)
    return probe_method("linear_probe", num_classes, options, net, RECIPE)

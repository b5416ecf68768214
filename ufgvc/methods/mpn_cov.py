"""fast-MPN-COV, also called iSQRT-COV (Li et al. 2018, arXiv 1712.01034): square root of the channel covariance."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ufgvc.core.config import Settings
from ufgvc.core.errors import UserError
from ufgvc.methods.backbones import PROBE_SIDE, Backbone, build_backbone
from ufgvc.methods.layers.second_order import covariance_pool, reduce_channels, sqrt_by_trace, upper_triangle
from ufgvc.methods.method import Method, Outputs, method
from ufgvc.methods.recipe import Recipe, Stage
from ufgvc.methods.resnet50 import classification_loss

# Fine-tuning of the released code. It starts from a net that was trained on ImageNet with the covariance head and
# raises the rate of the classifier only; here the 1x1 convolution and its BatchNorm are new too and get the same rate.
# It resizes the short side to 448 and crops the centre; here images are resized to a square.
RECIPE = Recipe(
    stages=(Stage(epochs=100, lr=1.2e-3, head_lr_factor=5.0, weight_decay=1e-4, schedule="constant"),),
    batch_size=10,
    resize=448,
    crop=448,
    mirror=True,
)


class CovarianceOptions(Settings):
    """Options of fast-MPN-COV."""

    backbone: str = Field("resnet50", description="name of a torchvision model, efficientnet_lite0, or `timm:<name>`")
    last_stride: Literal[1, 2] | None = Field(
        None,
        description="stride of the backbone's last stage: 1, as published, doubles the sides of its map; 2 leaves it "
        "as it is; unset: 1 where only convolutions of stride 2 make that stage, as in ResNet and EfficientNet, else 2",
    )
    dimension: int = Field(
        256, ge=2, le=1024, description="channels d after the 1x1 convolution; the embedding has d (d + 1) / 2 numbers"
    )
    iterations: int = Field(5, ge=1, le=20, description="Newton-Schulz steps for the square root of the covariance")


class CovarianceNet(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> Outputs.

    "features" (B, C, h, w), "embedding" (B, d (d + 1) / 2) float32, the upper triangle of the square root of the
    covariance, "logits" (B, K) float32.
    """

    def __init__(self, backbone: nn.Module, channels: int, num_classes: int, dimension: int, iterations: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.iterations = iterations
        self.reduce = reduce_channels(channels, dimension)
        self.classifier = nn.Linear(dimension * (dimension + 1) // 2, num_classes)

    def forward(self, images: Tensor) -> Outputs:
        """Images (B, 3, H, W) in [0, 1] -> logits (B, K), embedding and features."""
        features = self.backbone(images)
        covariance = covariance_pool(self.reduce(features))
        embedding = upper_triangle(sqrt_by_trace(covariance, self.iterations))
        with torch.autocast(embedding.device.type, enabled=False):
            logits = self.classifier(embedding)
        return {"features": features, "embedding": embedding, "logits": logits}


def probe_map(backbone: Backbone) -> Tensor:
    """The last map (1, C, h, w) of a small black image, in evaluation."""
    was_training = backbone.training
    with torch.no_grad():
        features = backbone.eval()(torch.zeros(1, 3, PROBE_SIDE, PROBE_SIDE))
    backbone.train(was_training)
    return features


def keep_resolution(backbone: Backbone) -> bool:
    """Sets the stride of the convolutions that halve the map last to 1, which doubles its sides; weights stay.

    Returns whether that could be done: not if pooling, or something that is no layer, halves the map there; the
    backbone is then as it was.
    """
    layers = [layer for layer in backbone.trunk.modules() if isinstance(layer, nn.Conv2d | nn.AvgPool2d | nn.MaxPool2d)]
    strided = [layer for layer in layers if layer.stride in (2, (2, 2))]
    if not strided:
        return False
    sizes: dict[nn.Module, tuple[int, int]] = {}  # sides of the maps before and after a layer
    hooks = [
        layer.register_forward_hook(lambda at, maps, out: sizes.update({at: (maps[0].shape[-1], out.shape[-1])}))
        for layer in strided
    ]
    last = probe_map(backbone).shape[-1]
    for hook in hooks:
        hook.remove()
    final = {layer: before for layer, (before, after) in sizes.items() if after == last}
    convolutions = [layer for layer in final if isinstance(layer, nn.Conv2d)]
    if not final or len(convolutions) < len(final):
        return False
    for layer in convolutions:
        layer.stride = (1, 1)
    try:
        doubled = probe_map(backbone).shape[-1] in final.values()
    except RuntimeError:  # maps of two sizes: a function halves one branch of the block, as in Inception
        doubled = False
    if not doubled:
        for layer in convolutions:
            layer.stride = (2, 2)
    return doubled


@method("mpn_cov", CovarianceOptions)
def build_mpn_cov(num_classes: int, init: str, options: CovarianceOptions) -> Method:
    """`Method` of fast-MPN-COV; see `ufgvc.methods.build`."""
    backbone = build_backbone(options.backbone, init)
    finer = options.last_stride != 2 and keep_resolution(backbone)
    if options.last_stride == 1 and not finer:
        raise UserError(
            f"{options.backbone} has no last stage in which only convolutions have a stride of 2",
            where="last_stride",
            fix="use a ResNet or an EfficientNet, or leave `last_stride` unset",
        )
    return Method(
        name="mpn_cov",
        num_classes=num_classes,
        options=options.model_dump(mode="json") | {"last_stride": 1 if finer else 2},
        net=CovarianceNet(backbone, backbone.channels, num_classes, options.dimension, options.iterations),
        losses=classification_loss,
        loss_weights={"classification": 1.0},
        recipe=RECIPE,
        head=("reduce", "classifier"),
    )

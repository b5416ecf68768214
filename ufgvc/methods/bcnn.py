"""B-CNN (Lin et al. 2015, arXiv 1504.07889): products of all pairs of channels, averaged over the positions, and a linear layer."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ufgvc.core.config import Settings
from ufgvc.methods.backbones import Backbone, build_backbone
from ufgvc.methods.layers.second_order import bilinear_pool, signed_sqrt, sqrt_by_norm
from ufgvc.methods.method import Method, Outputs, method
from ufgvc.methods.recipe import Recipe, Stage
from ufgvc.methods.resnet50 import classification_loss

# Both stages, the batch and the sizes are those of HaoMood/bilinear-cnn (methods.md 7). A rate of 1 fits inputs of length 1 that
# are spread over 262,144 numbers. There the short side becomes 448 and a square is cut out; here photographs become square (so
# the random crop is gone: only the mirror is left of it). The signed root with eps 1e-8 is fast-MPN-COV's, for both nets:
# HaoMood's sqrt(x + 1e-5) can not take the negative entries behind a matrix root. There the rate falls by the accuracy on the
# test set, and the second stage starts from the epoch that was best on it; here by the score that `plateau` names, and from the
# last epoch.
RECIPE = Recipe(
    stages=(
        Stage(epochs=55, lr=1.0, weight_decay=1e-8, schedule="plateau", gamma=0.1, patience=3, frozen=("backbone",)),
        Stage(epochs=25, lr=1e-2, weight_decay=1e-5, schedule="plateau", gamma=0.1, patience=3),
    ),
    batch_size=64,
    resize=448,
    crop=448,
)


class BilinearOptions(Settings):
    """Options of B-CNN."""

    backbone: str = Field(
        "vgg16",
        description="a torchvision model by its name, without its last max-pooling, or `timm:<name>` where timm is installed; with C "
        "channels in the last map the classifier sees C x C numbers",
    )


class BilinearNet(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> "features" (B, C, h, w), "embedding" (B, C C) float32 of length 1, "logits" (B, K) float32.

    iterations: Newton-Schulz steps towards the square root of the pooled matrix (improved B-CNN); None: no root.
    """

    def __init__(self, backbone: nn.Module, channels: int, num_classes: int, iterations: int | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.iterations = iterations
        # With bias: only the codes around DCL leave it out (methods.md 1), the published B-CNNs have it.
        self.classifier = nn.Linear(channels * channels, num_classes)

    def forward(self, images: Tensor) -> Outputs:
        features = self.backbone(images)
        pooled = bilinear_pool(features)
        if self.iterations is not None:
            pooled = sqrt_by_norm(pooled, self.iterations)
        embedding = functional.normalize(signed_sqrt(pooled).flatten(1))
        with torch.autocast(embedding.device.type, enabled=False):
            logits = self.classifier(embedding)
        return {"features": features, "embedding": embedding, "logits": logits}


def build_fine_backbone(name: str, init: str) -> Backbone:
    """The backbone up to its last ReLU where a max-pooling follows it (VGG, AlexNet), else whole; tensors keep their names."""
    backbone = build_backbone(name, init)
    layers = getattr(backbone.trunk, "features", None)
    if isinstance(layers, nn.Sequential) and isinstance(layers[-1], nn.MaxPool2d):
        backbone.trunk.features = layers[:-1]
    return backbone


@method("bcnn", BilinearOptions)
def build_bcnn(num_classes: int, init: str, options: BilinearOptions) -> Method:
    backbone = build_fine_backbone(options.backbone, init)
    return Method(
        name="bcnn",
        num_classes=num_classes,
        options=options.model_dump(mode="json"),
        net=BilinearNet(backbone, backbone.channels, num_classes),
        losses=classification_loss,
        loss_weights={"classification": 1.0},
        recipe=RECIPE,
    )

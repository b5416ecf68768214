"""B-CNN (Lin et al. 2015, arXiv 1504.07889): bilinear pooling of the last feature map, and a linear layer."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ufgvc.core.config import Settings
from ufgvc.methods.backbones import Backbone, build_backbone
from ufgvc.methods.layers.second_order import bilinear_pool, reduce_channels, signed_sqrt, sqrt_by_norm
from ufgvc.methods.method import Method, Outputs, method
from ufgvc.methods.recipe import Recipe, Stage
from ufgvc.methods.resnet50 import classification_loss

# Stages, batch size and image sizes of HaoMood/bilinear-cnn. A learning rate of 1 fits inputs of length 1 with 262,144
# entries. Differences from that code:
# - It resizes the short side to 448 and crops a square; here images are resized to a square, so of its random crop and
#   flip only the flip is left.
# - The signed square root with eps 1e-8 is fast-MPN-COV's, for both nets: sqrt(x + 1e-5) of HaoMood is undefined for
# the   negative entries that a matrix square root has.
# - It lowers the rate by the accuracy on the test set and starts the second stage from the epoch that was best on it;
#   here the score of `schedule: plateau` lowers the rate, and the second stage starts from the last epoch.
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
        description="name of a torchvision model, without its last max-pooling, efficientnet_lite0, or `timm:<name>`; "
        "C channels in the last map give an embedding of C x C numbers",
    )
    # Ours: published B-CNNs pool VGG's 512 channels. At the 2048 of a ResNet-50, the classifier has 4.2 million weights
    # for each class.
    dimension: int | None = Field(
        None,
        ge=2,
        le=1024,
        description="channels that a 1x1 convolution leaves of the last map before pooling, for backbones with many; "
        "unset: no such convolution",
    )


class BilinearNet(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> Outputs.

    "features" (B, C, h, w), "embedding" (B, C * C) float32 of L2 norm 1, "logits" (B, K) float32: bilinear pooling,
    signed square root, L2 normalisation and a linear layer.
    dimension: d channels are left by a 1x1 convolution before pooling, and the embedding is (B, d * d); None: C.
    iterations: Newton-Schulz steps for the square root of the pooled matrix (improved B-CNN); None: no matrix root.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: int,
        num_classes: int,
        dimension: int | None = None,
        iterations: int | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.iterations = iterations
        self.reduce = nn.Identity() if dimension is None else reduce_channels(channels, dimension)
        # With bias, as in the published B-CNNs.
        self.classifier = nn.Linear((dimension or channels) ** 2, num_classes)

    def forward(self, images: Tensor) -> Outputs:
        """Images (B, 3, H, W) in [0, 1] -> logits (B, K), embedding and features."""
        features = self.backbone(images)
        pooled = bilinear_pool(self.reduce(features))
        if self.iterations is not None:
            pooled = sqrt_by_norm(pooled, self.iterations)
        embedding = functional.normalize(signed_sqrt(pooled).flatten(1))
        with torch.autocast(embedding.device.type, enabled=False):
            logits = self.classifier(embedding)
        return {"features": features, "embedding": embedding, "logits": logits}


def build_fine_backbone(name: str, init: str) -> Backbone:
    """`build_backbone` without the last max-pooling of VGG and AlexNet; parameters keep their names."""
    backbone = build_backbone(name, init)
    layers = getattr(backbone.trunk, "features", None)
    if isinstance(layers, nn.Sequential) and isinstance(layers[-1], nn.MaxPool2d):
        backbone.trunk.features = layers[:-1]
    return backbone


def head_of(options: BilinearOptions) -> tuple[str, ...]:
    """The new layers of a `BilinearNet`."""
    return ("classifier",) if options.dimension is None else ("reduce", "classifier")


@method("bcnn", BilinearOptions)
def build_bcnn(num_classes: int, init: str, options: BilinearOptions) -> Method:
    """`Method` of B-CNN; see `ufgvc.methods.build`."""
    backbone = build_fine_backbone(options.backbone, init)
    return Method(
        name="bcnn",
        num_classes=num_classes,
        options=options.model_dump(mode="json"),
        net=BilinearNet(backbone, backbone.channels, num_classes, options.dimension),
        losses=classification_loss,
        loss_weights={"classification": 1.0},
        recipe=RECIPE,
        head=head_of(options),
    )

"""InceptionV3 with its auxiliary classifier (Szegedy et al. 2016, arXiv 1512.00567), as torchvision builds it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ufgvc.core.config import Settings
from ufgvc.methods.backbones import Backbone, build_backbone
from ufgvc.methods.method import Batch, LossParts, Method, Outputs, method
from ufgvc.methods.resnet50 import GlobalAverage, classification_loss, cross_entropy, plain_method
from ufgvc.methods.weights import kaiming_init_

if TYPE_CHECKING:
    from torchvision.models.inception import InceptionAux

# The map that the auxiliary classifier takes: the block that it follows, and the number of its channels.
MIDDLE, MIDDLE_CHANNELS = "Mixed_6e", 768
MIDDLE_SIDE = 17  # side of that map in cells at 299 px; the auxiliary convolutions need at least so many


class InceptionOptions(Settings):
    """Options of InceptionV3."""

    dropout: float = Field(0.5, ge=0, lt=1, description="dropout probability before the classifier")
    auxiliary_weight: float = Field(0.4, gt=0, description="weight of the auxiliary classifier's cross-entropy")


class InceptionNet(nn.Module):
    """Images (B, 3, H, W) in [0, 1] with sides of at least 75 px -> Outputs.

    "features" (B, 2048, h, w), "embedding" (B, 2048), "logits" (B, K) and "auxiliary" (B, K).
    The auxiliary classifier keeps torchvision's name, so that its pretrained convolutions can be loaded; only its last
    layer is new.
    """

    def __init__(self, backbone: Backbone, auxiliary: InceptionAux, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.AuxLogits = auxiliary
        self.neck = nn.Sequential(GlobalAverage(), nn.Dropout(dropout))
        self.classifier = nn.Linear(backbone.channels, num_classes)

    def forward(self, images: Tensor) -> Outputs:
        """Images (B, 3, H, W) in [0, 1] -> logits (B, K), and in training the auxiliary logits."""
        features, middle = self.maps(images)
        embedding = self.neck(features)
        return {
            "features": features,
            "embedding": embedding,
            "logits": self.classifier(embedding),
            "auxiliary": self.AuxLogits(enlarge(middle)),
        }

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(last map (B, 2048, h, w), input of the auxiliary classifier (B, 768, h', w'))."""
        features = middle = self.backbone.normalise(images)
        for name, part in self.backbone.trunk.named_children():
            features = part(features)
            if name == MIDDLE:
                middle = features
        return features, middle


def enlarge(middle: Tensor) -> Tensor:
    """Enlarges a map (B, C, h, w) to at least MIDDLE_SIDE cells a side by repeating cells, for crops under 299 px."""
    height, width = max(middle.shape[2], MIDDLE_SIDE), max(middle.shape[3], MIDDLE_SIDE)
    return middle if middle.shape[2:] == (height, width) else functional.adaptive_avg_pool2d(middle, (height, width))


def inception_losses(outputs: Outputs, batch: Batch) -> LossParts:
    """Cross-entropy of both classifiers: "classification" and "auxiliary"."""
    return classification_loss(outputs, batch) | {"auxiliary": cross_entropy(outputs["auxiliary"], batch.class_targets)}


# The recipe of all plain nets, whose crop of 384 px is above the 299 px of ImageNet. Dropout is torchvision's and the
# auxiliary weight is that of its training script; no source states either for these leaves.
@method("inception_v3", InceptionOptions)
def build_inception_v3(num_classes: int, init: str, options: InceptionOptions) -> Method:
    """`Method` of InceptionV3; see `ufgvc.methods.build`."""
    from torchvision.models.inception import InceptionAux

    auxiliary = InceptionAux(MIDDLE_CHANNELS, num_classes)
    convolutions = nn.ModuleDict({"AuxLogits": nn.ModuleDict({"conv0": auxiliary.conv0, "conv1": auxiliary.conv1})})
    kaiming_init_(convolutions)
    net = InceptionNet(build_backbone("inception_v3", init, convolutions), auxiliary, num_classes, options.dropout)
    return replace(
        plain_method("inception_v3", num_classes, options, net, min_side=75),
        losses=inception_losses,
        loss_weights={"classification": 1.0, "auxiliary": options.auxiliary_weight},
        head=("classifier", "AuxLogits.fc"),
    )

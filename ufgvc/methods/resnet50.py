"""The plain baseline: a backbone, average pooling and a linear layer, trained by cross-entropy."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ufgvc.core.config import Section
from ufgvc.methods.backbones import build_backbone
from ufgvc.methods.method import Batch, LossParts, Method, Outputs, method
from ufgvc.methods.recipe import Recipe, Stage

# The paper copies its ResNet-50 row from MaskCOV, whose released code runs a plain backbone so (methods.md 2-6); no source
# states the recipe of that row itself.
RECIPE = Recipe(
    stages=(Stage(epochs=160, lr=1e-3, momentum=0.9, schedule="step", step_epochs=60, gamma=0.1),),
    batch_size=16,
    resize=440,
    crop=384,
    rotate=15.0,
    test_view="resize",
)


class PlainOptions(Section):
    """Options of the plain classifier."""

    backbone: str = Field("resnet50", description="a torchvision model by its name, or `timm:<name>` where timm is installed")


class PlainNet(nn.Module):
    """Images (B, 3, H, W) in [0, 1] -> "features" (B, C, h, w), "embedding" (B, C), "logits" (B, K)."""

    def __init__(self, backbone: nn.Module, channels: int, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        # Without bias, as in the family of released codes around DCL (methods.md 1).
        self.classifier = nn.Linear(channels, num_classes, bias=False)

    def forward(self, images: Tensor) -> Outputs:
        features = self.backbone(images)
        embedding = features.mean(dim=(2, 3))
        return {"features": features, "embedding": embedding, "logits": self.classifier(embedding)}


def cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(sum over the images, number of images) of the cross-entropy of logits (B, K) at labels (B,)."""
    total = functional.cross_entropy(logits.float(), labels, reduction="sum")
    return total, torch.tensor(float(len(labels)), device=total.device)


def classification_loss(outputs: Outputs, batch: Batch) -> LossParts:
    return {"classification": cross_entropy(outputs["logits"], batch.labels)}


@method("resnet50", PlainOptions)
def build_plain(num_classes: int, init: str, options: PlainOptions) -> Method:
    backbone = build_backbone(options.backbone, init)
    return Method(
        name="resnet50",
        num_classes=num_classes,
        options=options.model_dump(mode="json"),
        net=PlainNet(backbone, backbone.channels, num_classes),
        losses=classification_loss,
        loss_weights={"classification": 1.0},
        recipe=RECIPE,
    )

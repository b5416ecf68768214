"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381): average pooling, dropout and a new linear layer."""

from __future__ import annotations

from pydantic import Field
from torch import nn

from ufgvc.core.config import Settings
from ufgvc.methods.backbones import build_backbone
from ufgvc.methods.method import Method, method
from ufgvc.methods.resnet50 import GlobalAverage, PlainNet, plain_method


class MobileNetOptions(Settings):
    """Options of MobileNetV2."""

    dropout: float = Field(0.2, ge=0, lt=1, description="dropout probability before the classifier")


# The recipe of all plain nets. Dropout: torchvision's value.
@method("mobilenet_v2", MobileNetOptions)
def build_mobilenet_v2(num_classes: int, init: str, options: MobileNetOptions) -> Method:
    """`Method` of MobileNetV2; see `ufgvc.methods.build`."""
    backbone = build_backbone("mobilenet_v2", init)
    neck = nn.Sequential(GlobalAverage(), nn.Dropout(options.dropout))
    return plain_method("mobilenet_v2", num_classes, options, PlainNet(backbone, backbone.channels, num_classes, neck))

"""VGG (Simonyan and Zisserman 2015, arXiv 1409.1556): pretrained convolutions, fc6 and fc7, and a new classifier."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from pydantic import Field
from torch import nn

from ufgvc.core.config import Settings
from ufgvc.methods.backbones import build_backbone
from ufgvc.methods.method import Method, method
from ufgvc.methods.resnet50 import PlainNet, plain_method
from ufgvc.methods.weights import kaiming_init_

Vgg = Literal["vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"]


class VggOptions(Settings):
    """Options of VGG."""

    backbone: Vgg = Field("vgg16", description="a VGG of torchvision")
    hidden: int = Field(4096, gt=0, description="units of fc6 and fc7; ImageNet weights exist for 4096 only")
    dropout: float = Field(0.5, ge=0, lt=1, description="dropout probability after fc6 and after fc7")


def pretrained_neck(hidden: int, dropout: float) -> nn.Module:
    """fc6 and fc7, (B, 512, h, w) -> (B, hidden), with torchvision's parameter names."""
    layers = (
        *(nn.Linear(512 * 7 * 7, hidden), nn.ReLU(), nn.Dropout(dropout)),
        *(nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout)),
    )
    parts = OrderedDict(avgpool=nn.AdaptiveAvgPool2d(7), flatten=nn.Flatten(), classifier=nn.Sequential(*layers))
    return kaiming_init_(nn.Sequential(parts))


# The recipe of all plain nets. Its learning rate of 1e-3 for every layer suits a net without batch normalisation (with
# a ten times higher rate the head may diverge). Dropout: torchvision's value, which is also the original's.
@method("vgg16", VggOptions)
def build_vgg16(num_classes: int, init: str, options: VggOptions) -> Method:
    """`Method` of VGG; see `ufgvc.methods.build`."""
    neck = pretrained_neck(options.hidden, options.dropout)
    net = PlainNet(build_backbone(options.backbone, init, neck), options.hidden, num_classes, neck)
    return plain_method("vgg16", num_classes, options, net)

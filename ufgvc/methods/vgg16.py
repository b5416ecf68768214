"""VGG-16: thirteen convolutions and two fully connected layers, all pretrained, and a new last one."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from pydantic import Field
from torch import nn

from ufgvc.core.config import Settings
from ufgvc.methods.backbones import build_backbone
from ufgvc.methods.layers.init import kaiming_init_
from ufgvc.methods.method import Method, method
from ufgvc.methods.resnet50 import PlainNet, plain_method

Vgg = Literal["vgg11", "vgg13", "vgg16", "vgg19", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"]


class VggOptions(Settings):
    """Options of VGG."""

    backbone: Vgg = Field("vgg16", description="which VGG of torchvision")
    hidden: int = Field(4096, gt=0, description="units of fc6 and fc7; ImageNet weights exist for 4096 only")
    dropout: float = Field(0.5, ge=0, lt=1, description="share of the values that are zeroed behind fc6 and behind fc7")


def pretrained_neck(hidden: int, dropout: float) -> nn.Module:
    """(B, 512, h, w) -> (B, hidden): fc6 and fc7 under torchvision's names, so that its weights fit."""
    layers = (
        *(nn.Linear(512 * 7 * 7, hidden), nn.ReLU(), nn.Dropout(dropout)),
        *(nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout)),
    )
    parts = OrderedDict(avgpool=nn.AdaptiveAvgPool2d(7), flatten=nn.Flatten(), classifier=nn.Sequential(*layers))
    return kaiming_init_(nn.Sequential(parts))


# The recipe is that of all plain nets; its rate of 1e-3 for every layer suits a net without batch normalisation (a ten times
# faster head may diverge). Dropout is torchvision's, and the original's.
@method("vgg16", VggOptions)
def build_vgg16(num_classes: int, init: str, options: VggOptions) -> Method:
    neck = pretrained_neck(options.hidden, options.dropout)
    net = PlainNet(build_backbone(options.backbone, init, neck), options.hidden, num_classes, neck)
    return plain_method("vgg16", num_classes, options, net)

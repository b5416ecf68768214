"""AlexNet (Krizhevsky et al. 2012): pretrained convolutions, fc6 and fc7, and a new classifier."""

from __future__ import annotations

from collections import OrderedDict

from pydantic import Field
from torch import nn

from ufgvc.core.config import Settings
from ufgvc.methods.backbones import build_backbone
from ufgvc.methods.method import Method, method
from ufgvc.methods.resnet50 import PlainNet, plain_method
from ufgvc.methods.weights import kaiming_init_


class AlexNetOptions(Settings):
    """Options of AlexNet."""

    hidden: int = Field(4096, gt=0, description="units of fc6 and fc7; ImageNet weights exist for 4096 only")
    dropout: float = Field(0.5, ge=0, lt=1, description="dropout probability before fc6 and before fc7")


def pretrained_neck(hidden: int, dropout: float) -> nn.Module:
    """fc6 and fc7, (B, 256, h, w) -> (B, hidden), with torchvision's parameter names."""
    layers = (
        *(nn.Dropout(dropout), nn.Linear(256 * 6 * 6, hidden), nn.ReLU()),
        *(nn.Dropout(dropout), nn.Linear(hidden, hidden), nn.ReLU()),
    )
    parts = OrderedDict(avgpool=nn.AdaptiveAvgPool2d(6), flatten=nn.Flatten(), classifier=nn.Sequential(*layers))
    return kaiming_init_(nn.Sequential(parts))


# The recipe of all plain nets. Its learning rate of 1e-3 for every layer suits a net without batch normalisation (with
# a ten times higher rate the head may diverge). Dropout: torchvision's value, which is also the original's.
@method("alexnet", AlexNetOptions)
def build_alexnet(num_classes: int, init: str, options: AlexNetOptions) -> Method:
    """`Method` of AlexNet; see `ufgvc.methods.build`."""
    neck = pretrained_neck(options.hidden, options.dropout)
    net = PlainNet(build_backbone("alexnet", init, neck), options.hidden, num_classes, neck)
    return plain_method("alexnet", num_classes, options, net, min_side=63)

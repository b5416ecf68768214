"""Files of weights: reading them safely, and loading them into parts of a net whatever they were wrapped in."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import PurePosixPath

import torch
from torch import Tensor, nn

from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store

# What our nets, DDP, torch.compile and the wrapper of timm's transformers put before the published names, outermost first.
PREFIXES = ("module.", "_orig_mod.", "net.", "backbone.", "neck.", "trunk.", "model.")
SAME = "give the weights of the same backbone"


def read_file(uri: str) -> bytes:
    """The bytes of a file of weights. UserError if it is not there."""
    folder, _, name = uri.rpartition("/")
    try:
        return open_store(folder or ("/" if uri.startswith("/") else ".")).read_bytes(name)
    except OSError as error:
        what = (
            "there is no such file of weights"
            if isinstance(error, FileNotFoundError)
            else f"cannot be read as a file of weights ({error})"
        )
        raise UserError(what, where=uri, fix="give `imagenet`, `none` or the URI of a file of weights") from None


def check_init(init: str) -> None:
    """UserError if `init` is a file of weights that cannot be read; `imagenet` and `none` are none."""
    if init not in ("imagenet", "none"):
        read_state_dict(init)


def read_state_dict(uri: str) -> dict[str, Tensor]:
    """The tensors in a file of weights, by name; nothing in the file is executed. UserError if it cannot be read."""
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
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        fix = "save it again as safetensors, or as a plain state dict with torch.save"
        raise UserError(f"not a state dict that can be read safely: {first}", where=uri, fix=fix) from None
    for wrapper in ("state_dict", "model", "model_state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise UserError("holds something other than a state dict", where=uri, fix="save `net.state_dict()`")
    return loaded


def load_weights(
    part: nn.Module, found: Mapping[str, Tensor], where: str, what: str = "backbone", fix: str = SAME
) -> None:
    """Loads into a part of a net the state dict of the same backbone, bare, with any head, or inside of one of our nets or DDP.

    what: how messages call the part.  fix: the advice that they give.
    UserError that names what is missing or has another shape. Tensors that the part has no place for (heads) are left out.
    """
    wanted = part.state_dict()
    # timm writes `stages_0` where it cuts a net at its stages and `stages.0` elsewhere.
    available = {_plain(name): tensor for name, tensor in found.items()}
    chosen = {name: available.get(_plain(name)) for name in wanted}
    # Counters of BatchNorm are missing from old files and change nothing.
    missing = [name for name, tensor in chosen.items() if tensor is None and not name.endswith("num_batches_tracked")]
    if missing:
        text = f"{len(missing)} of {len(wanted)} tensors of the {what} are missing, first {missing[0]}"
        raise UserError(text, where=where, fix=fix)
    ill = [name for name, tensor in chosen.items() if tensor is not None and tensor.shape != wanted[name].shape]
    if ill:
        shapes = f"{tuple(available[_plain(ill[0])].shape)} instead of {tuple(wanted[ill[0]].shape)}"
        raise UserError(f"{ill[0]} has the shape {shapes}", where=where, fix=fix)
    part.load_state_dict({name: wanted[name] if tensor is None else tensor for name, tensor in chosen.items()})


def _plain(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name.replace(".", "_")

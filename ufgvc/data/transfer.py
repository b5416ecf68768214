"""Asynchronous copies from the host to a device."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copies a tensor to the device. A copy to a GPU is queued on its stream, and the host does not wait for it.

    Only page-locked memory can be copied so; torch keeps it until the copy is done, so the caller may drop the tensor.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    if torch.compiler.is_compiling():  # a compiled graph cannot pin memory
        return tensor.to(device, non_blocking=True)
    return tensor.pin_memory().to(device, non_blocking=True)

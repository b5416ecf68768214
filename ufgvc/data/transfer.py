"""Copies from the host to the device that nobody waits for."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor, any shape, on the device. To a GPU it is copied behind the work that waits there, and the host goes on at once.

    Only page-locked memory can be copied so. Torch keeps it until the copy is done, so the caller may forget the tensor.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    if torch.compiler.is_compiling():  # a compiled graph knows no page-locked memory
        return tensor.to(device, non_blocking=True)
    return tensor.pin_memory().to(device, non_blocking=True)

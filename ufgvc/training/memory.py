"""Turns out-of-memory errors of torch into a UserError that says which setting to change."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch

from ufgvc.core.errors import UserError
from ufgvc.methods.recipe import Recipe

# Messages of torch's other out-of-memory errors: of the host, the driver, cuBLAS and cuDNN; the last one is raised by
# cuDNN's benchmark mode if no algorithm had enough workspace memory.
MESSAGES = (
    *("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
    "FIND was unable to find an engine",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or a library that it calls had too little memory."""
    return isinstance(error, torch.OutOfMemoryError) or any(message in str(error) for message in MESSAGES)


@contextlib.contextmanager
def enough_memory(what: str, where: str, fix: str, device: torch.device) -> Iterator[None]:
    """Context manager: an out-of-memory error becomes a UserError "<what> does not fit into <the device's memory>".

    what: e.g. "a batch of 16 images of 448 px".  where: the setting to change.  fix: the advice.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        # The frames of the traceback hold tensors; free them, because this process may continue with a smaller size.
        traceback.clear_frames(error.__traceback__)
        raise UserError(f"{what} does not fit into {memory_of(device)}", where=where, fix=fix) from None


def memory_for_batches(
    recipe: Recipe, world: int, resident: bool, device: torch.device, graphs: bool = False
) -> AbstractContextManager[None]:
    """`enough_memory` for training batches.  world: workers.  resident: whether images are cached on the device.

    graphs: whether steps are captured, whose memory nothing else can use.
    """
    size, side = recipe.batch_size, recipe.crop
    shared = f" ({-(-size // world)} of them on each of {world} workers)" if world > 1 else ""
    fix = f"use a smaller batch (`--train.batch-size {max(2, size // 2)}`) or a smaller crop (`--train.crop`)"
    fix += ", or cache the images on the host (`--train.cache host`)" if resident else ""
    fix += ", or no CUDA graph (`--train.cuda-graphs off`)" if graphs else ""
    return enough_memory(f"a batch of {size} images of {side} px{shared}", "train.batch_size", fix, device)


def memory_for_scores(batch_size: int, input: Mapping[str, Any], device: torch.device) -> AbstractContextManager[None]:
    """`enough_memory` for the forward passes of a trained model.  input: "input" of its model.json."""
    fix = f"use a smaller batch (`--batch-size {max(1, batch_size // 2)}`)" + (
        ", or `--device cpu`" if device.type == "cuda" else ""
    )
    return enough_memory(f"a batch of {batch_size} images of {input['size']} px", "--batch-size", fix, device)


def memory_of(device: torch.device) -> str:
    """Describes a device's memory and its size for an error message."""
    if device.type != "cuda":
        return "this machine's memory"
    # Other processes may use some of it; memory that torch has reserved counts as free.
    free, total = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device)
    name = torch.cuda.get_device_name(device)
    size, available = total / 2**30, min(free, total) / 2**30
    return f"the memory of {device} ({name}, {size:.1f} GiB, {available:.1f} GiB of it free for this process)"

"""Memory of the device that does not suffice is for the user to mend: one message with the remedy."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch

from ufgvc.core.errors import UserError
from ufgvc.methods.recipe import Recipe

# What else torch says where memory is out: that of the host, of cuBLAS, cuDNN and the driver; the last is what is left of cuDNN's
# search for the fastest algorithm where each that it tried found no memory to work in.
SIGNS = (
    *("can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
    "FIND was unable to find an engine",
)


@contextlib.contextmanager
def enough_memory(what: str, where: str, fix: str, device: torch.device) -> Iterator[None]:
    """Within the block, torch's out of memory becomes a UserError: `what` does not fit into the device's memory.

    what: e.g. "a batch of 16 images of 448 px".  where: the setting that decides it.  fix: what to do.
    """
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in SIGNS)):
            raise
        # The frames of what failed hold tensors, and this process may go on with something smaller.
        traceback.clear_frames(error.__traceback__)
        raise UserError(f"{what} does not fit into {memory_of(device)}", where=where, fix=fix) from None


def memory_for_batches(
    recipe: Recipe, world: int, resident: bool, device: torch.device
) -> AbstractContextManager[None]:
    """`enough_memory` for the batches of a training.  resident: whether the photographs lie in the device's memory too."""
    size, side = recipe.batch_size, recipe.crop
    shared = f" ({-(-size // world)} of them on each of {world} workers)" if world > 1 else ""
    fix = f"use a smaller batch (`--train.batch-size {max(2, size // 2)}`) or a smaller crop (`--train.crop`)"
    fix += ", or keep the photographs off the device (`--train.cache host`)" if resident else ""
    return enough_memory(f"a batch of {size} images of {side} px{shared}", "train.batch_size", fix, device)


def memory_for_scores(batch_size: int, input: Mapping[str, Any], device: torch.device) -> AbstractContextManager[None]:
    """`enough_memory` for forward passes of a trained model.  input: of its model.json."""
    fix = f"use a smaller batch (`--batch-size {max(1, batch_size // 2)}`)" + (
        ", or `--device cpu`" if device.type == "cuda" else ""
    )
    return enough_memory(f"a batch of {batch_size} images of {input['size']} px", "--batch-size", fix, device)


def memory_of(device: torch.device) -> str:
    """In words for a message: which memory, and how large it is."""
    if device.type != "cuda":
        return "this machine's memory"
    # Other processes may hold some of it; what torch keeps itself counts as free.
    free, whole = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device)
    name = torch.cuda.get_device_name(device)
    return f"the memory of {device} ({name}, {whole / 2**30:.1f} GiB, {min(free, whole) / 2**30:.1f} GiB of it free for this process)"

"""What guides the attention in training: the leaf's own masks, or controls that tell nothing of the leaf."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from ufgvc.methods.method import Batch

Guide = Literal["mask", "shuffled", "centre"]
BLOB_SPREAD = 0.2  # standard deviation of the centre blob, in sides of the picture


def guided_by(guide: Guide) -> partial[Batch]:
    """Views that leave the images alone and put `guide` in place of their masks.

    `shuffled` takes the masks of the neighbour in this rank's batch, so with another number of workers it is another shuffle.
    """
    return partial(_guided, guide=guide)


def _guided(batch: Batch, guide: Guide) -> Batch:
    if guide == "shuffled":
        # The neighbour in the batch is another leaf every epoch, so only what all masks share can be learnt.
        masks = {region: mask.roll(1, dims=0) for region, mask in batch.masks.items()}
        return replace(
            batch, masks=masks, has_mask={region: has.roll(1, dims=0) for region, has in batch.has_mask.items()}
        )
    if guide == "centre":
        return replace(batch, masks={region: centre_blob(mask).expand_as(mask) for region, mask in batch.masks.items()})
    return batch


def centre_blob(like: Tensor) -> Tensor:
    """(1, 1, H, W) in (0, 1]: a round Gaussian about the middle of the picture."""
    height, width = like.shape[-2:]
    down = (torch.arange(height, device=like.device) + 0.5) / height - 0.5
    right = (torch.arange(width, device=like.device) + 0.5) / width - 0.5
    return torch.exp(-(down[:, None].square() + right[None, :].square()) / (2 * BLOB_SPREAD**2)).to(like.dtype)[
        None, None
    ]

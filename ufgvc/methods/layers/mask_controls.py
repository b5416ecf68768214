"""Controls of methods that are guided by masks: training targets that carry no information about the leaf."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from ufgvc.core.config import Settings
from ufgvc.methods.method import Batch

Guide = Literal["mask", "shuffled", "centre"]
BLOB_STD = 0.2  # of the centre blob, as a share of the image's sides


class MaskControl(Settings):
    """Control experiments: changes to the method that should make it worse if the masks help."""

    guide: Guide = Field(
        "mask",
        description="target of the attention: the leaf's own masks; shuffled: another leaf's; centre: a blob",
    )


def mask_views(guide: Guide) -> partial[Batch]:
    """Views that keep the images and replace their masks by `guide`.

    `shuffled` uses the masks of the next image in this rank's batch, so another number of workers gives other masks.
    """
    return partial(_replace_masks, guide=guide)


def _replace_masks(batch: Batch, guide: Guide) -> Batch:
    if guide == "shuffled":
        # The next image in the batch is another leaf in every epoch, so only what all masks share can be learned.
        masks = {region: mask.roll(1, dims=0) for region, mask in batch.masks.items()}
        has_mask = {region: has.roll(1, dims=0) for region, has in batch.has_mask.items()}
        return replace(batch, masks=masks, has_mask=has_mask)
    if guide == "centre":
        return replace(batch, masks={region: centre_blob(mask).expand_as(mask) for region, mask in batch.masks.items()})
    return batch


def centre_blob(like: Tensor) -> Tensor:
    """A Gaussian around the centre of the image, (1, 1, H, W) float in (0, 1].  like: a mask of that size."""
    height, width = like.shape[-2:]
    down = (torch.arange(height, device=like.device) + 0.5) / height - 0.5
    right = (torch.arange(width, device=like.device) + 0.5) / width - 0.5
    squared = down[:, None].square() + right[None, :].square()
    return torch.exp(-squared / (2 * BLOB_STD**2))[None, None]

"""Fits the finder of regions of a probe to the masks of the training images: one pass, in closed form."""

from __future__ import annotations

import dataclasses
import logging

import torch
from torch import Tensor
from torch.nn import functional

from ufgvc.data.augment import eval_view
from ufgvc.data.crops import unpack
from ufgvc.data.stream import RawBatch
from ufgvc.methods.layers.region_finder import Moments
from ufgvc.methods.linear_probe import ProbeNet
from ufgvc.methods.method import Method
from ufgvc.training.ddp import Ranks
from ufgvc.training.loader import BatchLoader, eval_batch

log = logging.getLogger(__name__)
IMAGES = 2000  # with more the finder hardly changes


def fit_regions(method: Method, loader: BatchLoader, ranks: Ranks) -> None:
    """Fits the net's finder on IMAGES training images of all ranks, a random sample, and on their mirror images.

    Images without a mask of a region are left out for that region. One without any mask at all is never found, and its
    statistics are the whole picture's; a warning says so.
    """
    net = method.net
    assert isinstance(net, ProbeNet)
    assert net.finder is not None
    moments = Moments.zeros(len(method.regions), net.finder.width, ranks.device)
    left = -(-IMAGES // ranks.world_size)
    with torch.inference_mode(), torch.autocast(ranks.device.type, enabled=False):
        for raw in loader.source.epoch(0):
            _add(method, net.eval(), moments, raw)
            left -= len(raw.labels)
            if left <= 0:
                break
        fields = [field.name for field in dataclasses.fields(Moments)]
        total = Moments(**{name: ranks.sum(getattr(moments, name)) for name in fields})
        weight, bias = total.solve()
        net.finder.weight.copy_(weight)
        net.finder.bias.copy_(bias)
    for region, share in zip(method.regions, total.share.tolist(), strict=True):
        if not share:
            log.warning("no training leaf has a mask of the %s: its features are the whole picture's", region)


def _add(method: Method, net: ProbeNet, moments: Moments, raw: RawBatch) -> None:
    """Adds the cells of a batch, and of its mirror images if the recipe has them."""
    assert net.finder is not None
    crop = method.recipe.crop
    for part in torch.arange(len(raw.images)).split(eval_batch(crop, raw.images.device)):
        at = part.to(raw.images.device)
        images = eval_view(raw.images[at], crop)
        masks = [_mask_view(raw.packed_masks[region][at], raw.images.shape[1], crop) for region in method.regions]
        for turn in (False, True) if method.recipe.mirror else (False,):
            cells = net.finder.cells(net.maps.run(net.backbone, images.flip(3) if turn else images))
            rows = cells.flatten(2).transpose(1, 2)  # (B, h * w, D)
            for place, (region, mask) in enumerate(zip(method.regions, masks, strict=True)):
                seen = mask.flip(3) if turn else mask
                shares = functional.adaptive_avg_pool2d(seen, (cells.shape[2], cells.shape[3])).flatten(1)
                has = raw.has_mask[region][at]
                moments.add(place, rows[has].flatten(0, 1), shares[has].flatten())


def _mask_view(bits: Tensor, side: int, crop: int) -> Tensor:
    """Packed masks (B, side, ceil(side / 8)) -> their centre (B, 1, crop, crop) float in {0, 1}, as of `eval_view`."""
    start = (side - crop) // 2
    return unpack(bits, side)[:, None, start : start + crop, start : start + crop].float()

"""Class activation maps (paper, Fig. 4), and the share of them that lies inside the masks of the regions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ufgvc.core.errors import UserError
from ufgvc.data.augment import eval_view
from ufgvc.data.resize import resize_mask_square
from ufgvc.models.model import LoadedModel

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
BATCH_SIZE = 8  # gradients need the graph of a whole batch in memory


def activation_maps(net: nn.Module, images: Tensor, last_map: str = "features") -> tuple[Tensor, Tensor]:
    """Maps (B, h, w) float in [0, 1] and the predicted classes (B,) for images (B, 3, H, W) in [0, 1].

    The map of class k is max(0, sum_c w_kc M_c) over the last feature map M, divided by its own maximum (all zeros
    where no cell is positive). The weight w_kc is d logit_k / d M_c in each cell: behind average pooling and a linear
    layer this is the layer's weight over h w, thus exactly the CAM of Zhou et al. (2016); behind any other head it is
    HiResCAM (Draelos and Carin 2020). Unlike Grad-CAM it does not average the gradient over the map: behind a centred
    covariance (`mpn_cov`) that average is zero up to rounding.

    last_map: the net's output that holds M, "fused" where masks guide the net (Method.last_map).
    UserError if the net has no such map. The net must be in eval mode; no gradient is stored in its parameters.
    """
    with torch.enable_grad():
        # With frozen parameters only an input that requires a gradient builds a graph.
        outputs = net(images.detach().requires_grad_())
        logits, last = outputs["logits"], outputs.get(last_map)
        if not isinstance(last, Tensor) or last.ndim != 4:
            raise UserError("this model has no feature map to visualise", fix="leave it out of --compare")
        predicted = logits.argmax(dim=1)
        (gradient,) = torch.autograd.grad(logits.gather(1, predicted[:, None]).sum(), last)
    raw = (gradient * last.detach()).sum(dim=1).clamp(min=0)
    peak = raw.amax(dim=(1, 2), keepdim=True)
    return torch.where(peak > 0, raw / peak.clamp(min=torch.finfo(raw.dtype).tiny), torch.zeros_like(raw)), predicted


def energy_share(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of each map's sum that lies inside its mask, (B,) float64 in [0, 1]; NaN for a map of zeros.

    maps: (B, h, w) in [0, 1], upsampled bilinearly to the masks' size.  masks: (B, H, W) bool.
    This is the energy-based pointing game of Score-CAM (Wang et al. 2020), with a mask instead of a box.
    """
    size = masks.shape[1:]
    large = functional.interpolate(maps[:, None].double(), size=size, mode="bilinear", align_corners=False)[:, 0]
    large = large.clamp(0, 1)
    return (large * masks).sum(dim=(1, 2)) / large.sum(dim=(1, 2))  # 0 / 0 is NaN


def mask_share(masks: Tensor) -> Tensor:
    """Share of the image that each mask (B, H, W) bool covers, (B,) float64: the energy share of a uniform map."""
    return masks.double().mean(dim=(1, 2))


@dataclass(frozen=True)
class MapBatch:
    """The maps of a batch.  views: (B, 3, H, W), the network's input in [0, 1].  maps: (B, h, w) in [0, 1].

    inside: (B,) energy share.  covered: (B,) mask share.
    """

    views: Tensor
    maps: Tensor
    inside: Tensor
    covered: Tensor


def view_masks(model: LoadedModel, masks: Sequence[Mask]) -> Tensor:
    """Masks (H, W) bool of any size as (B, size, size) bool on its device, resized and cropped as images are."""
    side, size = int(model.input["resize"]), int(model.input["size"])
    squares = np.stack([resize_mask_square(mask, side) for mask in masks])
    return eval_view(torch.from_numpy(squares).to(model.device)[..., None] * 255, size)[:, 0] > 0.5


def masked_maps(
    model: LoadedModel, images: Sequence[Image], masks: Sequence[Mask], batch_size: int = BATCH_SIZE
) -> Iterator[MapBatch]:
    """The class activation maps of the predicted classes, batch by batch, with their shares inside the masks.

    images: (H, W, 3) uint8, upright.  masks: (H, W) bool.
    ValueError if a mask and its image differ in size. UserError if the model has no feature map.
    """
    if [image.shape[:2] for image in images] != [mask.shape for mask in masks]:
        raise ValueError("a mask has another size than its image, or is missing")
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        views, inside = model.view(images[part]), view_masks(model, masks[part])
        maps, _ = activation_maps(model.net, views, model.method.last_map)
        yield MapBatch(views, maps, energy_share(maps, inside), mask_share(inside))


def mean_energy(
    images: Sequence[Image], masks: Sequence[Mask], models: Mapping[str, LoadedModel], batch_size: int = BATCH_SIZE
) -> dict[str, tuple[float, float, int]]:
    """{label: (mean energy share, mean mask share, leaves)} over the leaves whose mask and map are not empty.

    The means are NaN without such leaves. Arguments as in `masked_maps`. A model without a feature map is left out.
    """
    found = {}
    for label, model in models.items():
        try:
            batches = list(masked_maps(model, images, masks, batch_size))
        except UserError:
            continue
        shares = [torch.stack([batch.inside, batch.covered]).cpu() for batch in batches]
        inside, covered = torch.cat([torch.empty(2, 0, dtype=torch.float64), *shares], dim=1)
        valid = ~inside.isnan() & (covered > 0)
        found[label] = (float(inside[valid].mean()), float(covered[valid].mean()), int(valid.sum()))
    return found

"""How much of what a network looks at lies inside the vein and contour: the paper's Fig. 4 with a number under each map."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ufgvc.core.errors import UserError
from ufgvc.data.augment import eval_view
from ufgvc.data.stream import resize_mask_square
from ufgvc.evaluation.cam import activation_maps, overlay, pixels
from ufgvc.models.model import LoadedModel
from ufgvc.reports.figures import Panels
from ufgvc.reports.samples import masked

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]
BATCH = 8  # a gradient needs the whole graph of a batch


def energy_share(maps: Tensor, masks: Tensor) -> Tensor:
    """Share of each map's sum that lies inside its mask, (B,) float64 in [0, 1]; NaN for a map that is zero everywhere.

    maps: (B, h, w) in [0, 1], grown bilinearly to the masks' size.  masks: (B, H, W) bool.
    The measure is that of the energy-based pointing game (Score-CAM, Wang et al. 2020), with a mask in the place of a box.
    """
    grown = functional.interpolate(maps[:, None].double(), size=masks.shape[1:], mode="bilinear", align_corners=False)[
        :, 0
    ].clamp(0, 1)
    return (grown * masks).sum(dim=(1, 2)) / grown.sum(dim=(1, 2))  # 0 / 0 is NaN


def mask_share(masks: Tensor) -> Tensor:
    """Share of the picture that each mask covers, (B,) float64: what a map without any preference would score. masks: (B, H, W) bool."""
    return masks.double().mean(dim=(1, 2))


@dataclass(frozen=True)
class Looked:
    """A batch under one model. seen: (B, 3, H, W) in [0, 1].  maps: (B, h, w).  share, chance: (B,) of `energy_share`, `mask_share`."""

    seen: Tensor
    maps: Tensor
    share: Tensor
    chance: Tensor


def seen_masks(model: LoadedModel, masks: Sequence[Mask]) -> Tensor:
    """Masks of any size, (H, W) bool -> (B, size, size) bool on the model's device: squared and cropped as `model.view` does images."""
    side, size = int(model.input["resize"]), int(model.input["size"])
    squares = np.stack([resize_mask_square(mask, side) for mask in masks])
    return eval_view(torch.from_numpy(squares).to(model.device)[..., None] * 255, size)[:, 0] > 0.5


def look(
    model: LoadedModel, images: Sequence[Image], masks: Sequence[Mask], batch_size: int = BATCH
) -> Iterator[Looked]:
    """Batch by batch, the class activation maps for the cultivars that the model names. ValueError if a mask has not its image's size.

    UserError if the model shows no feature map.
    """
    if [image.shape[:2] for image in images] != [mask.shape for mask in masks]:
        raise ValueError("a mask has another size than its image, or is missing")
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        seen, inside = model.view(images[part]), seen_masks(model, masks[part])
        maps, _ = activation_maps(model.net, seen, model.method.last_map)
        yield Looked(seen, maps, energy_share(maps, inside), mask_share(inside))


def mean_energy(
    images: Sequence[Image], masks: Sequence[Mask], models: Mapping[str, LoadedModel], batch_size: int = BATCH
) -> dict[str, tuple[float, float, int]]:
    """{label: (mean share, mean chance, leaves)} over the leaves that have a mask and a map that is not zero; NaN without any.

    images: (H, W, 3) uint8, upright.  masks: (H, W) bool, vein or contour.  A model without a feature map is left out.
    """
    found = {}
    for label, model in models.items():
        try:
            batches = [
                torch.stack([looked.share, looked.chance]).cpu() for looked in look(model, images, masks, batch_size)
            ]
        except UserError:
            continue
        share, chance = torch.cat([torch.empty(2, 0, dtype=torch.float64), *batches], dim=1)
        told = ~share.isnan() & (chance > 0)
        found[label] = (float(share[told].mean()), float(chance[told].mean()), int(told.sum()))
    return found


def energy_panels(
    images: Sequence[Image], masks: Sequence[Mask], models: Mapping[str, LoadedModel], captions: Sequence[str]
) -> Panels | None:
    """Leaf, its regions, and under each model the class activation map with the share of it inside the regions.

    Arguments as in `mean_energy`; captions: one a leaf.  None without leaves or without any model that shows a map.
    """
    columns: list[str] = ["leaf", "vein and contour"]
    pictures: list[list[Image]] = [[image, masked(image, mask)] for image, mask in zip(images, masks, strict=True)]
    marks = [["", ""] for _ in images]
    for label, model in models.items():
        try:
            batches = list(look(model, images, masks))
        except UserError:
            continue
        columns.append(label)
        singles = [(batch, i) for batch in batches for i in range(len(batch.maps))]
        for place, (batch, i) in enumerate(singles):
            pictures[place].append(overlay(pixels(batch.seen[i]), batch.maps[i].float().cpu().numpy()))
            marks[place].append(_mark(float(batch.share[i]), float(batch.chance[i])))
    if len(columns) == 2 or not images:
        return None
    alt = f"Class activation maps of {len(images)} leaves under {', '.join(columns[2:])}, with the share inside vein and contour"
    rows = tuple(tuple(row) for row in pictures)
    return Panels(
        "cam", "Class activation maps", alt, tuple(columns), tuple(captions), rows, tuple(tuple(row) for row in marks)
    )


def _mark(share: float, chance: float) -> str:
    if np.isnan(share):
        return "an empty map"
    if chance == 0:
        return "no regions in view"
    return f"{100 * share:.0f}\u00a0% inside (mask is {100 * chance:.0f}\u00a0% of the picture)"

"""The leaf of an image cut into parts from top to bottom: regions in which `part_probe` pools."""

from __future__ import annotations

import torch
from torch import Tensor

from ufgvc.methods.layers.leaf_segmentation import find_leaf


def leaf_parts(images: Tensor, parts: int) -> Tensor:
    """The leaf in `parts` horizontal bands of equal area: images (B, 3, H, W) in [0, 1] -> (B, parts, H, W) in [0, 1].

    The bands of an image add up to its leaf (`find_leaf`). A row that lies in two bands belongs to both in proportion
    to its area there, so the bands depend continuously on the image.
    """
    leaf = find_leaf(images)
    rows = leaf.sum(dim=3)  # (B, 1, H)
    total = rows.sum(dim=2, keepdim=True).clamp(min=1e-6)
    end = rows.cumsum(dim=2) / total
    start = end - rows / total
    edges = torch.arange(parts + 1, device=images.device, dtype=images.dtype) / parts
    low, high = edges[:-1].view(1, -1, 1), edges[1:].view(1, -1, 1)
    inside = (torch.minimum(end, high) - torch.maximum(start, low)).clamp(min=0)  # (B, parts, H)
    share = inside / (end - start).clamp(min=1e-9)
    return leaf * share.clamp(max=1)[:, :, :, None]

"""Class activation maps: where a network looked when it named a cultivar (paper Fig. 4)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ufgvc.core.errors import UserError


def activation_maps(net: nn.Module, images: Tensor, last_map: str = "features") -> tuple[Tensor, Tensor]:
    """Maps (B, h, w) float in [0, 1] and the predicted classes (B,) for images (B, 3, H, W) in [0, 1].

    The map of class k is max(0, sum_c w_kc M_c) over the last map M, divided by its own maximum (zeros where nothing
    speaks for the class). The weight w_kc is d logit_k / d M_c in each cell: behind average pooling and a
    linear layer this is the layer's own weight over h w, thus exactly the CAM of Zhou et al. (2016); behind any other
    head it is HiResCAM (Draelos and Carin 2020), which unlike Grad-CAM does not average the slope over the map: behind a centred
    covariance (`mpn_cov`) that average is nothing but rounding. last_map: the net's output that holds M, "fused" where masks
    guide the net (Method.last_map).
    UserError if the net shows no such map. The net must be in eval mode; its parameters gain no gradient.
    """
    with torch.enable_grad():
        # A frozen net would build no graph for the map, so the input asks for one.
        outputs = net(images.detach().requires_grad_())
        logits, last = outputs["logits"], outputs.get(last_map)
        if not isinstance(last, Tensor) or last.ndim != 4:
            raise UserError("this model shows no feature map to look at", fix="leave it out of --compare")
        predicted = logits.argmax(dim=1)
        (slope,) = torch.autograd.grad(logits.gather(1, predicted[:, None]).sum(), last)
    raw = (slope * last.detach()).sum(dim=1).clamp(min=0)
    peak = raw.amax(dim=(1, 2), keepdim=True)
    return torch.where(peak > 0, raw / peak.clamp(min=torch.finfo(raw.dtype).tiny), torch.zeros_like(raw)), predicted


def pixels(view: Tensor) -> NDArray[np.uint8]:
    """What a network saw, (3, H, W) in [0, 1], as a picture (H, W, 3) uint8."""
    return (view.permute(1, 2, 0).float().cpu().numpy() * 255).round().astype(np.uint8)


def overlay(image: NDArray[np.uint8], heat: NDArray[np.float32], strength: float = 0.55) -> NDArray[np.uint8]:
    """The photograph (H, W, 3) uint8 with a map (h, w) in [0, 1] laid over it, resized bilinearly to the photograph."""
    from matplotlib import colormaps

    height, width = image.shape[:2]
    grown = Image.fromarray(np.asarray(heat, dtype=np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    level = np.clip(np.asarray(grown), 0, 1)
    colours = colormaps["inferno"](level)[..., :3] * 255
    # Where nothing speaks for the class the photograph stays almost as it is.
    opacity = (strength * (0.35 + 0.65 * level))[..., None]
    return np.clip(image * (1 - opacity) + colours * opacity, 0, 255).astype(np.uint8)

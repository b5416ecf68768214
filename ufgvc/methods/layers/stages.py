"""The feature maps of a backbone's stages, and their mean and standard deviation inside regions of the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ufgvc.core.errors import UserError
from ufgvc.methods.backbones import Backbone, TokenGrid

SMALL_VARIANCE = 1e-5
SIDE = 96  # pixels, of the image with which stages are found: a multiple of the usual strides
# Of a channel that does not answer only rounding is left, which standardisation would make as large as all others.
MIN_VARIANCE = 1e-8
MIN_STRIDE = 8  # of the stages that are taken where none are named: earlier ones hold edges and colours only


@dataclass(frozen=True)
class Stage:
    """Consecutive layers of a trunk whose maps have the same shape.

    module: the last of them.  channels: C of its map.  stride: pixels of the image per cell of the map.
    """

    module: nn.Module
    channels: int
    stride: int


def list_stages(backbone: Backbone) -> list[Stage]:
    """The stages of a backbone, in forward order; layers in nested `nn.Sequential` count one by one.

    A trunk whose layers do not return maps (B, C, h, w), as of a transformer, has one stage: its last map.
    """
    seen: list[tuple[nn.Module, torch.Size]] = []

    def record(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] == output.shape[3]:
            seen.append((module, output.shape))

    trunk = backbone.trunk
    side = 8 * trunk.patch if isinstance(trunk, TokenGrid) else SIDE
    hooks = [module.register_forward_hook(record) for module in _layers(trunk)]
    was_training = trunk.training
    with torch.no_grad():
        last = backbone.eval()(torch.zeros(1, 3, side, side))
    backbone.train(was_training)
    for hook in hooks:
        hook.remove()
    if not seen or seen[-1][1] != last.shape:
        seen.append((trunk, last.shape))
    ends = [list(group)[-1] for _, group in groupby(seen, key=lambda each: each[1])]
    return [Stage(module, shape[1], round(side / shape[2])) for module, shape in ends]


def _layers(module: nn.Module) -> list[nn.Module]:
    """The direct layers of a module, with those of nested containers in place of the containers."""
    found: list[nn.Module] = []
    for child in module.children():
        found += _layers(child) if isinstance(child, nn.Sequential) else [child]
    return found


def choose_stages(stages: Sequence[Stage], numbers: Sequence[int], with_last: bool) -> list[Stage]:
    """The stages with these numbers, counted from 1; without numbers, those with a stride of at least MIN_STRIDE, or
    the last one if there are none.

    with_last: whether the last stage is among these, if there are others.  UserError for numbers that there are not.
    """
    unknown = [number for number in numbers if not 1 <= number <= len(stages)]
    if unknown:
        known = "; ".join(f"{n}: {each.channels} channels, stride {each.stride}" for n, each in enumerate(stages, 1))
        what = f"the backbone has no stage {unknown[0]}"
        raise UserError(what, where="options.stages", fix=f"its stages are {known}")
    if numbers:
        return [stages[number - 1] for number in sorted(set(numbers))]
    deep = [each for each in stages if each.stride >= MIN_STRIDE] or list(stages[-1:])
    return deep if with_last or len(deep) < 2 else deep[:-1]


class StageMaps:
    """Takes the maps of some stages out of a backbone with forward hooks.

    Not a module, because the backbone holds the layers already.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.channels = tuple(stage.channels for stage in stages)
        self._maps: dict[int, Tensor] = {}
        for place, stage in enumerate(stages):
            # Not a closure: a copy of the net (deepcopy, pickle) is to have hooks that fill the copy's maps.
            stage.module.register_forward_hook(partial(self._keep, place))

    def _keep(self, place: int, _: nn.Module, __: Any, output: Any) -> None:
        self._maps[place] = output[-1] if isinstance(output, list | tuple) else output

    def run(self, backbone: Backbone, images: Tensor) -> list[Tensor]:
        """The stages' maps (B, C_i, h_i, w_i) of images (B, 3, H, W) in [0, 1]."""
        backbone(images)
        return self.take()

    def take(self) -> list[Tensor]:
        """The stages' maps of the backbone's last forward pass, once."""
        return [self._maps.pop(place) for place in range(len(self.channels))]


class StagePool(nn.Module):
    """The last map (B, C, h, w) of a backbone -> (B, width): statistics of its earlier stages, then the map's mean.

    Of each stage: mean and standard deviation of each channel, scaled together to mean 0 and variance 1 in each image
    (ours: stages differ in scale, and the layers that follow are to see them alike).
    numbers: of the stages, see `choose_stages`; the last stage only if it is named.
    """

    def __init__(self, backbone: Backbone, numbers: Sequence[int] = ()) -> None:
        super().__init__()
        self.maps = StageMaps(choose_stages(list_stages(backbone), numbers, with_last=False))
        self.width = 2 * sum(self.maps.channels) + backbone.channels

    def forward(self, features: Tensor) -> Tensor:
        """Features (B, C, h, w), the output of the backbone's last forward pass -> (B, width) float32."""
        parts = []
        for each in self.maps.take():
            # Of at least SMALL_VARIANCE: the gradient of the root is infinite at 0, the variance of a dead channel.
            variance, mean = torch.var_mean(each.float(), dim=(2, 3), correction=0)
            both = torch.cat([mean, (variance + SMALL_VARIANCE).sqrt()], dim=1)
            parts.append(functional.layer_norm(both, both.shape[1:]))
        return torch.cat([*parts, features.float().mean(dim=(2, 3))], dim=1)


def region_statistics(maps: Sequence[Tensor], regions: Tensor) -> Tensor:
    """Mean and standard deviation of each channel inside each region.

    maps: of (B, C_i, h_i, w_i).  regions: weights (B, R, H, W) >= 0, brought to the size of each map by averaging.
    Returns (B, R * 2 * sum C_i) float32: map by map, region by region, the means and then the standard deviations,
    which are at least the root of MIN_VARIANCE. A region of weight 0 has mean 0 and the smallest deviation.
    """
    parts = []
    for each in maps:
        weights = functional.adaptive_avg_pool2d(regions, (each.shape[2], each.shape[3])).flatten(2)
        weights = weights / weights.sum(dim=2, keepdim=True).clamp(min=1e-6)
        values = each.float().flatten(2)
        # By the centred values: the difference of two large squares would lose what small maps hold.
        centre = values.mean(dim=2, keepdim=True)
        shifted = values - centre
        mean = weights @ shifted.transpose(1, 2)  # (B, R, C)
        variance = weights @ shifted.square().transpose(1, 2) - mean.square()
        present = weights.sum(dim=2, keepdim=True)
        mean = mean + present * centre.transpose(1, 2)
        parts.append(torch.cat([mean, variance.clamp(min=MIN_VARIANCE).sqrt()], dim=2).flatten(1))
    return torch.cat(parts, dim=1)

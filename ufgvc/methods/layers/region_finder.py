"""Finds regions of a leaf from the maps of a frozen backbone: linear in each cell, fitted in closed form on masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

PLACES = 5  # numbers that say where a cell is
RIDGE = 0.01  # share of each column's variance that is added to it
BELOW, ABOVE = 0.25, 0.75  # of a region's usual share, count as nothing and as all: least squares never says 0 or 1


class RegionFinder(nn.Module):
    """Maps of a backbone's stages -> weights (B, R, H, W) in [0, 1], which say how much of each cell lies in a region.

    The share of a cell inside a region, relative to the usual one of cells that the region crosses, is linear in the
    channels of all stages, averaged to the cells of the coarsest, and in the cell's place, so that photograph in,
    regions out is one network that needs no detector. Where no cell has half of the usual share, the weights grow to 1
    everywhere: a leaf without a found region gets the whole picture. So does an unfitted finder.
    weight: (R, D), D = channels of all stages + PLACES.  bias: (R,).
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, channels: Sequence[int], num_regions: int) -> None:
        super().__init__()
        self.width = sum(channels) + PLACES
        self.register_buffer("weight", torch.zeros(num_regions, self.width))
        self.register_buffer("bias", torch.zeros(num_regions))

    def cells(self, maps: Sequence[Tensor]) -> Tensor:
        """What the shares are linear in, (B, D, h, w), of maps (B, C_i, h_i, w_i) of which the last is the coarsest."""
        last = maps[-1]
        height, width = last.shape[2:]
        same = [functional.adaptive_avg_pool2d(each.float(), (height, width)) for each in maps]
        y = torch.linspace(-1, 1, height, device=last.device)[:, None].expand(height, width)
        x = torch.linspace(-1, 1, width, device=last.device).expand(height, width)
        place = torch.stack([x, y, x * x, x * y, y * y]).expand(last.shape[0], -1, -1, -1)
        return torch.cat([*same, place], dim=1)

    def forward(self, maps: Sequence[Tensor], side: Sequence[int]) -> Tensor:
        """Maps (B, C_i, h_i, w_i) -> weights (B, R, H, W) in [0, 1].  side: (H, W)."""
        share = torch.einsum("rd,bdhw->brhw", self.weight, self.cells(maps)) + self.bias[:, None, None]
        inside = ((share - BELOW) / (ABOVE - BELOW)).clamp(0, 1)
        found = (2 * inside.amax(dim=(2, 3), keepdim=True)).clamp(max=1)
        return functional.interpolate(torch.maximum(inside, 1 - found), size=list(side), mode="bilinear")


@dataclass(frozen=True)
class Moments:
    """Sums over cells, for least squares of R regions: count (R,), first (R, D), second (R, D, D), of the cells with a
    mask of that region; share and square (R,), and product (R, D), of the share of the cell inside the mask. All
    float64.
    """

    count: Tensor
    first: Tensor
    second: Tensor
    share: Tensor
    square: Tensor
    product: Tensor

    @classmethod
    def zeros(cls, num_regions: int, width: int, device: torch.device) -> Moments:
        """Of no cells."""
        shapes: list[tuple[int, ...]] = [(), (width,), (width, width), (), (), (width,)]
        return cls(*(torch.zeros(num_regions, *shape, dtype=torch.float64, device=device) for shape in shapes))

    def add(self, region: int, cells: Tensor, shares: Tensor) -> None:
        """Adds cells (n, D) with their shares (n,) of a region."""
        cells, shares = cells.double(), shares.double()
        self.count[region] += len(cells)
        self.first[region] += cells.sum(dim=0)
        self.second[region] += cells.T @ cells
        self.share[region] += shares.sum()
        self.square[region] += shares.square().sum()
        self.product[region] += cells.T @ shares

    def solve(self) -> tuple[Tensor, Tensor]:
        """The ridge regression's weight (R, D) and bias (R,) float64; zeros for a region that no mask shows.

        Both are divided by the usual share, the mean share of cells weighted by their shares: near 1 for boxes, small
        for thin lines. Minimises the mean squared error plus RIDGE times the sum of weight^2 times the column's
        variance, so that the scale of a column does not matter. Columns that never change get 0.
        """
        weight, bias = torch.zeros_like(self.first), torch.zeros_like(self.share)
        for region in torch.nonzero(self.share).flatten().tolist():
            count = self.count[region]
            mean, share = self.first[region] / count, self.share[region] / count
            covariance = self.second[region] / count - torch.outer(mean, mean)
            variance = covariance.diagonal().clamp(min=0)
            scale = variance.sqrt().clamp(min=1e-12)
            penalised = covariance / torch.outer(scale, scale) + RIDGE * torch.eye(len(mean)).to(covariance)
            slope = torch.linalg.solve(penalised, (self.product[region] / count - mean * share) / scale) / scale
            usual = self.square[region] / self.share[region]
            weight[region] = torch.where(variance > 1e-12 * mean.square().clamp(min=1e-6), slope, 0) / usual
            bias[region] = share / usual - weight[region] @ mean
        return weight, bias

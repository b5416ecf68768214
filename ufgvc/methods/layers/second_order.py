"""Second-order pooling: Gram and covariance matrices of a feature map, their matrix square roots and vectors of them.

All functions compute in float32 under autocast too (in float64 for float64 inputs): bfloat16 is off by several percent
after a few Newton-Schulz steps on the singular matrices that few positions and many channels give.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec

import torch
from torch import Tensor, nn

P = ParamSpec("P")

# Lower bound of a norm or trace before a division, for features that are all 0. Others are many orders larger.
MIN_SCALE = 1e-10


def in_full_precision(function: Callable[Concatenate[Tensor, P], Tensor]) -> Callable[Concatenate[Tensor, P], Tensor]:
    """Decorator that disables autocast and passes the first argument as float32, or float64 if it is float64."""

    @functools.wraps(function)
    def run(values: Tensor, /, *rest: P.args, **named: P.kwargs) -> Tensor:
        with torch.autocast(values.device.type, enabled=False):
            return function(values if values.dtype == torch.float64 else values.float(), *rest, **named)

    return run


def reduce_channels(channels: int, dimension: int) -> nn.Sequential:
    """1x1 convolution, BatchNorm and ReLU: (B, channels, h, w) -> (B, dimension, h, w) (iSQRT-COV)."""
    convolution = nn.Conv2d(channels, dimension, kernel_size=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(dimension), nn.ReLU())


@in_full_precision
def bilinear_pool(features: Tensor) -> Tensor:
    """Bilinear pooling X X^T / M over the M = h w positions: (B, C, h, w) -> (B, C, C) (arXiv 1504.07889)."""
    columns = features.flatten(2)
    return columns @ columns.mT / columns.shape[2]


@in_full_precision
def covariance_pool(features: Tensor) -> Tensor:
    """Channel covariance over the M = h w positions, divided by M: (B, C, h, w) -> (B, C, C) (arXiv 1712.01034)."""
    return bilinear_pool(features - features.mean(dim=(2, 3), keepdim=True))


@in_full_precision
def newton_schulz(matrix: Tensor, steps: int) -> Tensor:
    """Approximate matrix square root: (B, d, d) symmetric with eigenvalues in [0, 1] -> (B, d, d).

    Y = A, Z = I; in each of `steps` steps T = (3 I - Z Y) / 2, Y <- Y T, Z <- T Z (the coupled iteration of arXiv
    1712.01034). An eigenvalue a grows like 1.5^steps a until it is close to sqrt(a), so few steps leave small ones too
    small; this also bounds the gradient at 0.
    """
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    update = 1.5 * identity - 0.5 * matrix  # first step: Z is the identity
    root, inverse = matrix @ update, update
    for _ in range(steps - 1):
        update = torch.baddbmm(identity, inverse, root, beta=1.5, alpha=-0.5)
        root, inverse = root @ update, update @ inverse
    return root


@in_full_precision
def sqrt_by_norm(matrix: Tensor, steps: int, ridge: float = 1e-5) -> Tensor:
    """Square root of positive semidefinite matrices (B, d, d), normalised by their Frobenius norm before the iteration.

    Of improved B-CNN (Lin and Maji 2017, arXiv 1707.06772).
    ridge: this share of the mean eigenvalue is first added to the diagonal. The paper adds a constant that is not known
    here; a relative one keeps the root homogeneous.
    """
    mean = matrix.diagonal(dim1=1, dim2=2).mean(dim=1)
    matrix = matrix + torch.diag_embed((ridge * mean)[:, None].expand(-1, matrix.shape[1]))
    return _scaled_root(matrix, torch.linalg.vector_norm(matrix, dim=(1, 2)), steps)


@in_full_precision
def sqrt_by_trace(matrix: Tensor, steps: int) -> Tensor:
    """Square root of positive semidefinite matrices (B, d, d), normalised by their trace first (iSQRT-COV)."""
    return _scaled_root(matrix, matrix.diagonal(dim1=1, dim2=2).sum(dim=1), steps)


def _scaled_root(matrix: Tensor, scale: Tensor, steps: int) -> Tensor:
    scale = scale.clamp(min=MIN_SCALE)[:, None, None]
    return newton_schulz(matrix / scale, steps) * scale.sqrt()


@in_full_precision
def signed_sqrt(values: Tensor, eps: float = 1e-8) -> Tensor:
    """sign(x) sqrt(|x| + eps), any shape. Without eps the gradient at 0 would be NaN; with it, it is 0."""
    return values.sign() * (values.abs() + eps).sqrt()


def upper_triangle(matrix: Tensor) -> Tensor:
    """Entries on and above the diagonal, row by row: (B, d, d) -> (B, d (d + 1) / 2)."""
    row, column = torch.triu_indices(matrix.shape[-1], matrix.shape[-1], device=matrix.device)
    return matrix[:, row, column]

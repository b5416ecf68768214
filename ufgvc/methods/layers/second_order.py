"""Second-order pooling: Gram and covariance matrices of a feature map, their square roots, and what makes vectors of these.

All of it computes in float32 under autocast too (in float64 on float64): bfloat16 is off by several percent after a few
Newton-Schulz steps on the singular matrices that few positions and many channels make.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec

import torch
from torch import Tensor

P = ParamSpec("P")

# Below this a norm or trace counts as this, so that dead features divide nothing by 0. Features that live are many orders larger.
SMALLEST_SCALE = 1e-10


def in_full_precision(function: Callable[Concatenate[Tensor, P], Tensor]) -> Callable[Concatenate[Tensor, P], Tensor]:
    """Decorator: autocast is off inside, and the first argument comes as float32, or as float64 if it is."""

    @functools.wraps(function)
    def run(values: Tensor, /, *rest: P.args, **named: P.kwargs) -> Tensor:
        with torch.autocast(values.device.type, enabled=False):
            return function(values if values.dtype == torch.float64 else values.float(), *rest, **named)

    return run


@in_full_precision
def bilinear_pool(features: Tensor) -> Tensor:
    """X X^T / M over the M = h w positions, not centred: (B, C, h, w) -> (B, C, C) (Lin et al. 2015, arXiv 1504.07889)."""
    columns = features.flatten(2)
    return columns @ columns.mT / columns.shape[2]


@in_full_precision
def covariance_pool(features: Tensor) -> Tensor:
    """The channels' covariance over the M = h w positions, divided by M: (B, C, h, w) -> (B, C, C) (Li et al. 2018, arXiv 1712.01034)."""
    return bilinear_pool(features - features.mean(dim=(2, 3), keepdim=True))


@in_full_precision
def newton_schulz(matrix: Tensor, steps: int) -> Tensor:
    """`steps` Newton-Schulz steps towards the square root: (B, d, d) symmetric, eigenvalues in [0, 1] -> (B, d, d).

    Y = A, Z = I; then T = (3 I - Z Y) / 2, Y <- Y T, Z <- T Z. An eigenvalue a grows like 1.5^steps a until it nears
    sqrt(a), so that few steps leave small ones behind; this is also what bounds the gradient at 0.
    """
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    turn = 1.5 * identity - 0.5 * matrix  # the first step, where Z is still the identity
    root, inverse = matrix @ turn, turn
    for _ in range(steps - 1):
        turn = torch.baddbmm(identity, inverse, root, beta=1.5, alpha=-0.5)
        root, inverse = root @ turn, turn @ inverse
    return root


@in_full_precision
def sqrt_by_norm(matrix: Tensor, steps: int, ridge: float = 1e-5) -> Tensor:
    """Square root of (B, d, d) positive semidefinite matrices, scaled by their Frobenius norm before the steps and back after.

    This is improved B-CNN's (Lin and Maji 2017, arXiv 1707.06772). ridge: this part of the mean eigenvalue is added to the
    diagonal first; the paper adds a constant that is not known here, one relative to the matrix keeps the root homogeneous.
    """
    mean = matrix.diagonal(dim1=1, dim2=2).mean(dim=1)
    matrix = matrix + torch.diag_embed((ridge * mean)[:, None].expand(-1, matrix.shape[1]))
    return _scaled_root(matrix, torch.linalg.vector_norm(matrix, dim=(1, 2)), steps)


@in_full_precision
def sqrt_by_trace(matrix: Tensor, steps: int) -> Tensor:
    """Square root of (B, d, d) positive semidefinite matrices, scaled by their trace before the steps and back after (iSQRT-COV)."""
    return _scaled_root(matrix, matrix.diagonal(dim1=1, dim2=2).sum(dim=1), steps)


def _scaled_root(matrix: Tensor, scale: Tensor, steps: int) -> Tensor:
    scale = scale.clamp(min=SMALLEST_SCALE)[:, None, None]
    return newton_schulz(matrix / scale, steps) * scale.sqrt()


@in_full_precision
def signed_sqrt(values: Tensor, eps: float = 1e-8) -> Tensor:
    """sign(x) sqrt(|x| + eps), any shape. Without eps the gradient at 0, where much lies after a ReLU, is no number; with it, 0."""
    return values.sign() * (values.abs() + eps).sqrt()


def upper_triangle(matrix: Tensor) -> Tensor:
    """The entries on and above the diagonal, row by row: (B, d, d) -> (B, d (d + 1) / 2)."""
    row, column = torch.triu_indices(matrix.shape[-1], matrix.shape[-1], device=matrix.device)
    return matrix[:, row, column]

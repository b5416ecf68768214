"""Second-order pooling and its heads against float64 references in loops, written from the papers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ufgvc.methods.bcnn import BilinearNet
from ufgvc.methods.layers.second_order import (
    bilinear_pool,
    covariance_pool,
    newton_schulz,
    signed_sqrt,
    sqrt_by_norm,
    sqrt_by_trace,
    upper_triangle,
)
from ufgvc.methods.mpn_cov import CovarianceNet

ROOTS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "norm": lambda matrix, steps: sqrt_by_norm(matrix, steps, 0.0),
    "trace": sqrt_by_trace,
}
HEADS: dict[str, Callable[[Tensor], Tensor]] = {
    "bcnn": lambda features: functional.normalize(signed_sqrt(bilinear_pool(features)).flatten(1)),
    "improved_bcnn": lambda features: functional.normalize(
        signed_sqrt(sqrt_by_norm(bilinear_pool(features), 10)).flatten(1)
    ),
    "mpn_cov": lambda features: upper_triangle(sqrt_by_trace(covariance_pool(features), 5)),
}


def random_features(*shape: int, seed: int = 0) -> Tensor:
    """Float64, after a ReLU."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).relu()


def random_spd(size: int, seed: int = 0, smallest: float = 0.3) -> Tensor:
    """(1, d, d) float64 with eigenvalues from `smallest` to 3."""
    noise = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    basis = torch.linalg.qr(noise)[0]
    return ((basis * torch.linspace(smallest, 3.0, size, dtype=torch.float64)) @ basis.T)[None]


def reference_pool(features: np.ndarray, centred: bool) -> np.ndarray:
    """The mean over the positions of the outer product of each column, for one image (C, h, w)."""
    channels, height, width = features.shape
    columns = [features[:, y, x] for y in range(height) for x in range(width)]
    middle = sum(columns) / len(columns) if centred else np.zeros(channels)
    total = np.zeros((channels, channels))
    for column in columns:
        for i in range(channels):
            for j in range(channels):
                total[i, j] += (column[i] - middle[i]) * (column[j] - middle[j])
    return total / len(columns)


def reference_newton_schulz(matrix: np.ndarray, steps: int) -> np.ndarray:
    """The coupled iteration to the letter, no step folded."""
    y, z, identity = matrix.copy(), np.eye(len(matrix)), np.eye(len(matrix))
    for _ in range(steps):
        t = (3 * identity - z @ y) / 2
        y, z = y @ t, t @ z
    return y


def reference_embedding(name: str, features: np.ndarray) -> np.ndarray:
    """What the classifier sees, for one image (C, h, w): methods.md 7 steps 1 to 4, and 9."""
    pooled = reference_pool(features, centred=name == "mpn_cov")
    size = len(pooled)
    if name == "mpn_cov":
        trace = sum(pooled[i, i] for i in range(size))
        root = reference_newton_schulz(pooled / trace, 5) * math.sqrt(trace)
        return np.array([root[i, j] for i in range(size) for j in range(i, size)])
    if name == "improved_bcnn":
        pooled = pooled + 1e-5 * sum(pooled[i, i] for i in range(size)) / size * np.eye(size)
        norm = math.sqrt(sum(value**2 for value in pooled.flat))
        pooled = reference_newton_schulz(pooled / norm, 10) * math.sqrt(norm)
    roots = np.array([math.copysign(math.sqrt(abs(value) + 1e-8), value) if value else 0.0 for value in pooled.flat])
    return roots / math.sqrt(sum(root**2 for root in roots))


# --- pooling


def test_pooling_is_the_loop_over_positions():
    features = random_features(2, 3, 2, 4)
    for mine, theirs in zip(bilinear_pool(features), features.numpy(), strict=True):
        assert np.allclose(mine, reference_pool(theirs, centred=False), rtol=1e-12, atol=1e-14)
    for mine, theirs in zip(covariance_pool(features), features.numpy(), strict=True):
        assert np.allclose(mine, reference_pool(theirs, centred=True), rtol=1e-12, atol=1e-14)
        assert np.allclose(mine, torch.cov(torch.from_numpy(theirs).flatten(1), correction=0), rtol=1e-12, atol=1e-14)


def test_covariance_is_the_paper_s_product_with_the_centring_matrix():
    count = 8
    centring = (np.eye(count) - np.ones((count, count)) / count) / count
    assert np.allclose(centring, centring.T)
    assert np.allclose(centring @ centring, centring / count)
    assert np.allclose(centring @ np.ones(count), 0)
    columns = random_features(1, 3, 2, 4).flatten(2)
    assert np.allclose(
        covariance_pool(columns.view(1, 3, 2, 4))[0], columns[0].numpy() @ centring @ columns[0].numpy().T
    )


def test_covariance_forgets_constants_and_both_forget_the_order_of_positions():
    features = random_features(2, 5, 3, 4)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    shuffled = features.flatten(2)[:, :, order].view_as(features)
    moved = features + torch.arange(5.0).view(1, 5, 1, 1)
    assert torch.allclose(covariance_pool(moved), covariance_pool(features))
    for name, head in HEADS.items():
        assert torch.allclose(head(shuffled), head(features), atol=1e-10), name


def test_upper_triangle_goes_row_by_row():
    matrix = torch.arange(2 * 16.0).view(2, 4, 4)
    wanted = [[float(matrix[b, i, j]) for i in range(4) for j in range(i, 4)] for b in range(2)]
    assert upper_triangle(matrix).tolist() == wanted
    assert upper_triangle(torch.zeros(1, 256, 256)).shape == (1, 32_896)


# --- square roots


def test_each_eigenvalue_goes_the_way_of_the_scalar_iteration():
    # methods.md 9: five steps are not the square root.
    for value, after_five in {1 / 256: 0.0280, 1e-2: 0.066, 1e-3: 0.0075, 1e-4: 0.00076}.items():
        for steps in (1, 2, 5, 10, 15):
            y, z = value, 1.0
            for _ in range(steps):
                t = (3 - z * y) / 2
                y, z = y * t, t * z
            matrix = torch.diag_embed(torch.tensor([[value, 1.0, 0.0]], dtype=torch.float64))
            root = newton_schulz(matrix, steps)
            assert torch.allclose(
                root, torch.diag_embed(torch.tensor([[y, 1.0, 0.0]], dtype=torch.float64)), rtol=1e-12, atol=1e-15
            )
            if steps == 5:
                assert root[0, 0, 0] == pytest.approx(after_five, rel=0.01)


@pytest.mark.parametrize("steps", [1, 2, 5, 10])
def test_float32_agrees_with_the_unfolded_iteration_on_singular_matrices(steps: int):
    covariance = covariance_pool(
        random_features(2, 32, 4, 4)
    )  # 16 positions, so that half of the 32 directions are empty
    scaled = covariance / covariance.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    wanted = np.stack([reference_newton_schulz(matrix, steps) for matrix in scaled.numpy()])
    assert np.allclose(newton_schulz(scaled, steps), wanted, rtol=1e-10, atol=1e-13)
    in_float32 = newton_schulz(scaled.float(), steps)
    assert in_float32.dtype == torch.float32
    assert np.linalg.norm(in_float32 - wanted) < 1e-5 * np.linalg.norm(wanted)


@pytest.mark.parametrize("kind", ROOTS)
def test_enough_steps_give_the_square_root(kind: str):
    for size in (2, 16):
        matrix = 7.0 * random_spd(size)
        root = ROOTS[kind](matrix, 15)
        assert torch.linalg.norm(root @ root - matrix) < 1e-4 * torch.linalg.norm(matrix)
        values, vectors = torch.linalg.eigh(matrix)
        assert torch.allclose(root, vectors @ torch.diag_embed(values.sqrt()) @ vectors.mT, rtol=1e-4, atol=1e-6)
    with_ridge = sqrt_by_norm(matrix.float(), 15)
    assert torch.linalg.norm(with_ridge @ with_ridge - matrix) < 1e-4 * torch.linalg.norm(matrix)


@pytest.mark.parametrize("kind", ROOTS)
def test_the_gradient_solves_the_lyapunov_equation(kind: str):
    """For L = <W, S> with W symmetric, S S = G: dL/dG = K where S K + K S = W."""
    size, steps = 5, 20
    matrix = random_spd(size).requires_grad_()
    weights = torch.randn(size, size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    weights = weights + weights.T
    root = ROOTS[kind](matrix, steps)
    (by_autograd,) = torch.autograd.grad((root * weights).sum(), matrix)

    s, identity = root.detach()[0].numpy(), np.eye(size)
    by_lyapunov = np.linalg.solve(np.kron(s, identity) + np.kron(identity, s), weights.numpy().ravel()).reshape(
        size, size
    )
    assert np.allclose(by_autograd[0], by_lyapunov, rtol=1e-8, atol=1e-10)

    step = 1e-5
    for i in range(size):
        for j in range(i, size):
            nudge = torch.zeros(1, size, size, dtype=torch.float64)
            nudge[0, i, j] = nudge[0, j, i] = step
            up, down = ((ROOTS[kind](matrix.detach() + sign * nudge, steps) * weights).sum() for sign in (1, -1))
            along = by_lyapunov[i, j] + by_lyapunov[j, i] if i != j else by_lyapunov[i, i]
            assert float(up - down) / (2 * step) == pytest.approx(along, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("name", HEADS)
def test_gradcheck_of_the_whole_head(name: str):
    # Away from 0, where the signed root is steep: positive features for the Gram matrix.
    features = (random_features(1, 6, 4, 5, seed=4) + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(HEADS[name], (features,), eps=1e-6, atol=1e-5)


def test_signed_sqrt():
    values = torch.tensor([-4.0, -1e-10, 0.0, 1e-10, 9.0], dtype=torch.float64, requires_grad=True)
    roots = signed_sqrt(values)
    assert roots.tolist() == pytest.approx([-2.0, -math.sqrt(1.01e-8), 0.0, math.sqrt(1.01e-8), 3.0], rel=1e-8)
    roots.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == pytest.approx(
        [1 / 4, 0.5 / math.sqrt(1.01e-8), 0.0, 0.5 / math.sqrt(1.01e-8), 1 / 6], rel=1e-8
    )


# --- heads


@pytest.mark.parametrize("name", HEADS)
def test_the_embedding_is_the_formula(name: str):
    """Through the nets, in float64; two channels never fire together, so that the Gram matrix has zeros."""
    features = random_features(2, 6, 3, 4, seed=5)
    features[:, 0, :, :2] = features[:, 1, :, 2:] = 0
    if name == "mpn_cov":
        net: nn.Module = CovarianceNet(nn.Identity(), 6, 3, dimension=4, iterations=5).double().eval()
        net.reduce[1].running_mean.normal_()
        kernel, norm = net.reduce[0].weight[:, :, 0, 0], net.reduce[1]
        mixed = torch.einsum("dc,bchw->bdhw", kernel, features) - norm.running_mean[None, :, None, None]
        seen = (mixed / math.sqrt(1 + norm.eps)).relu().detach().numpy()
    else:
        iterations = 10 if name == "improved_bcnn" else None
        net = BilinearNet(nn.Identity(), 6, 3, iterations=iterations).double().eval()
        seen = features.numpy()
    outputs = net(features)
    wanted = np.stack([reference_embedding(name, image) for image in seen])
    assert np.allclose(outputs["embedding"].detach(), wanted, rtol=1e-9, atol=1e-9)
    logits = wanted @ net.classifier.weight.detach().numpy().T + net.classifier.bias.detach().numpy()
    assert np.allclose(outputs["logits"].detach(), logits, rtol=1e-9, atol=1e-9)
    assert outputs["features"] is features


def test_scale_and_length():
    features = random_features(3, 8, 4, 4)
    for name in ("bcnn", "improved_bcnn"):
        assert torch.allclose(HEADS[name](features).norm(dim=1), torch.ones(3, dtype=torch.float64))
        assert torch.allclose(HEADS[name](7 * features), HEADS[name](features), atol=1e-4)
    assert torch.allclose(HEADS["mpn_cov"](7 * features), 7 * HEADS["mpn_cov"](features))


def degenerate() -> dict[str, Tensor]:
    live = random_features(2, 8, 4, 4).float()
    dead = live.clone()
    dead[:, :5] = 0
    pattern = live[:, :1] * torch.arange(1.0, 9.0).view(1, 8, 1, 1)
    one_dead = live.clone()
    one_dead[0] = 0
    return {
        "zero": torch.zeros_like(live),
        "one image zero": one_dead,
        "rank 1": pattern,
        "channels zero": dead,
        "constant": torch.ones_like(live),
        "one position": live[:, :, :1, :1],
        "faint": live * 1e-12,
        "fainter": live * 1e-22,
        "strong": live * 1e4,
    }


@pytest.mark.parametrize("case", degenerate())
@pytest.mark.parametrize("name", HEADS)
def test_values_and_gradients_are_finite(name: str, case: str):
    features = degenerate()[case].requires_grad_()
    embedding = HEADS[name](features)
    (embedding * torch.randn(embedding.shape, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert features.grad is not None
    assert torch.isfinite(embedding).all()
    assert torch.isfinite(features.grad).all()

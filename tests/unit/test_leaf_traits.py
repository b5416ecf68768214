"""Leaf traits: thresholds, ridges, polar maps and spectra against loops in float64, and invariance of the traits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ufgvc.methods import Batch, build
from ufgvc.methods.layers.leaf_measures import ANGLES, TRAITS, colour, outline, polar, spectrum, veins
from ufgvc.methods.layers.leaf_segmentation import erode_leaf, find_leaf, isodata_threshold, ridges

SIDE = 96


def drawn_leaf(
    lobes: int = 5, depth: float = 0.35, turn: float = 0.0, shift: tuple[float, float] = (0.0, 0.0), size: float = 26.0
) -> Tensor:
    """(1, 3, SIDE, SIDE) in [0, 1]: a green leaf r = size (1 + depth cos(lobes a)) with a bright midrib, on grey."""
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    y, x = rows - SIDE / 2 - shift[0], columns - SIDE / 2 - shift[1]
    angle, radius = np.arctan2(x, -y) - turn, np.hypot(x, y)
    inside = np.clip(size * (1 + depth * np.cos(lobes * angle)) - radius + 0.5, 0, 1)
    rib = inside * np.clip(1.5 - np.abs(radius * np.sin(angle)), 0, 1) * (np.cos(angle) > 0)
    image = np.stack([0.8 - 0.6 * inside + 0.3 * rib, 0.8 - 0.3 * inside + 0.3 * rib, 0.8 - 0.7 * inside + 0.3 * rib])
    return torch.from_numpy(image).float()[None]


def test_the_threshold_lies_halfway_between_the_means_of_both_sides():
    values = torch.cat(
        [torch.rand(1, 1, 9, 11, generator=torch.Generator().manual_seed(0)), drawn_leaf()[:, :1, 30:39, 30:41]]
    )
    for row, got in zip(values.double(), isodata_threshold(values).flatten(), strict=True):
        flat, threshold = row.flatten().tolist(), float(row.mean())
        for _ in range(50):
            share = [min(1.0, max(0.0, (v - threshold) / (0.1 * max(flat)) + 0.5)) for v in flat]
            high = sum(s * v for s, v in zip(share, flat, strict=True)) / sum(share)
            low = sum((1 - s) * v for s, v in zip(share, flat, strict=True)) / (len(flat) - sum(share))
            threshold = (high + low) / 2
        assert math.isclose(float(got), threshold, abs_tol=1e-5)


def test_the_leaf_is_what_differs_from_the_frame():
    image = drawn_leaf()
    image = (image + 0.02 * torch.randn(image.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    y, x = rows - SIDE / 2, columns - SIDE / 2
    true = np.hypot(x, y) < 26 * (1 + 0.35 * np.cos(5 * np.arctan2(x, -y)))
    wrong = np.abs(find_leaf(image)[0, 0].numpy() - true)
    assert wrong.mean() < 0.01
    assert torch.equal(find_leaf(torch.full((1, 3, 40, 50), 0.3)), torch.ones(1, 1, 40, 50)), (
        "nothing stands out: all is leaf"
    )


def test_the_blade_is_the_leaf_without_its_rim():
    leaf = torch.zeros(1, 1, 80, 80)
    leaf[:, :, 20:60, 30:50] = 1
    inner = torch.zeros_like(leaf)
    inner[:, :, 22:58, 32:48] = 1
    assert torch.equal(erode_leaf(leaf), inner)


def test_a_ridge_is_the_curvature_across_a_bright_line():
    generator = torch.Generator().manual_seed(2)
    images, inside = torch.rand(1, 3, 12, 14, generator=generator), torch.zeros(1, 1, 12, 14)
    inside[:, :, 3:9, 2:11] = 1
    grey = np.pad(images.double().mean(1)[0].numpy(), 3, mode="reflect")
    weights = np.array([[math.exp(-(i * i + j * j) / 2) for j in range(-3, 4)] for i in range(-3, 4)])
    light = np.array(
        [[(grey[i : i + 7, j : j + 7] * weights).sum() / weights.sum() for j in range(14)] for i in range(12)]
    )
    wanted = np.zeros((12, 14))
    for i in range(3, 9):
        for j in range(2, 11):
            mixed = (light[i + 1, j + 1] + light[i - 1, j - 1] - light[i + 1, j - 1] - light[i - 1, j + 1]) / 4
            hessian = [
                [light[i, j + 1] + light[i, j - 1] - 2 * light[i, j], mixed],
                [mixed, light[i + 1, j] + light[i - 1, j] - 2 * light[i, j]],
            ]
            wanted[i, j] = max(0.0, -np.linalg.eigvalsh(hessian)[0])
    got = ridges(images, inside)[0, 0].numpy()
    assert np.allclose(got, wanted / (wanted.sum() / 54), atol=1e-3)
    assert got[wanted == 0].max() == 0


def test_polar_reads_the_map_at_rings_about_the_centroid():
    generator = torch.Generator().manual_seed(3)
    maps, leaf = torch.rand(1, 2, 30, 40, generator=generator), torch.zeros(1, 1, 30, 40)
    leaf[:, :, 5:17, 10:28] = 1
    got = polar(maps, leaf, rings=4, max_radius=2.0)
    assert got.shape == (1, 2, 4, ANGLES)
    radius = math.sqrt(12 * 18 / math.pi)
    picture = np.pad(maps[0].double().numpy(), ((0, 0), (1, 1), (1, 1)))
    for ring in range(4):
        for angle in range(0, ANGLES, 5):
            far, turn = radius * (ring + 0.5) * 2.0 / 4, 2 * math.pi * angle / ANGLES
            y, x = (
                11 - far * math.cos(turn) - 0.5,
                19 + far * math.sin(turn) - 0.5,
            )  # pixel middles are at whole numbers
            i, j = math.floor(y), math.floor(x)
            if not (-1 <= i < 30 and -1 <= j < 40):
                assert torch.equal(got[0, :, ring, angle], torch.zeros(2))
                continue
            a, b = y - i, x - j
            corners = picture[:, i + 1 : i + 3, j + 1 : j + 3]
            wanted = (
                corners[:, 0, 0] * (1 - a) * (1 - b)
                + corners[:, 0, 1] * (1 - a) * b
                + corners[:, 1, 0] * a * (1 - b)
                + corners[:, 1, 1] * a * b
            )
            assert np.allclose(got[0, :, ring, angle].numpy(), wanted, atol=1e-4)


def test_the_spectrum_is_the_size_of_the_fourier_transform():
    rings = torch.rand(2, 3, ANGLES, generator=torch.Generator().manual_seed(4))
    wanted = np.abs(np.fft.rfft(rings.double().numpy(), axis=2))[:, :, :12] / ANGLES
    assert np.allclose(spectrum(rings, 12).numpy(), wanted, atol=1e-5)
    assert torch.allclose(spectrum(rings.roll(17, dims=2).flip(2), 12), spectrum(rings, 12), atol=1e-5)


@pytest.mark.parametrize("measure", [outline, veins])
def test_a_leaf_may_be_turned_mirrored_moved_and_scaled(measure):
    def traits_of(image: Tensor) -> Tensor:
        return measure(image, find_leaf(image), erode_leaf(find_leaf(image)))

    leaf, other = traits_of(drawn_leaf()), traits_of(drawn_leaf(lobes=7, depth=0.15))
    apart = float((leaf - other).norm())
    same = {
        "a quarter turn": drawn_leaf().rot90(1, (2, 3)),
        "a mirror": drawn_leaf().flip(3),
        "any turn": drawn_leaf(turn=0.6),
        "a shift": drawn_leaf(shift=(7, -9)),
    }
    for what, image in same.items():
        assert float((traits_of(image) - leaf).norm()) < 0.35 * apart, what
    # Ridges are as wide as the filter, so veins of half the leaf are others.
    if measure is outline:
        assert float((traits_of(drawn_leaf(size=18)) - leaf).norm()) < 0.35 * apart


def test_colour_is_that_of_the_leaf_alone():
    image = torch.full((1, 3, 60, 60), 0.9)
    image[:, :, 20:40, 20:40] = torch.tensor([0.2, 0.6, 0.2])[:, None, None]
    got = colour(image, find_leaf(image), erode_leaf(find_leaf(image)))[0]
    assert torch.allclose(got, torch.tensor([0.2, 0.6, 1 / 3]), atol=1e-5)


def test_every_picture_gives_finite_traits():
    generator = torch.Generator().manual_seed(5)
    for image in (torch.zeros(2, 3, 32, 32), torch.ones(2, 3, 32, 48), torch.rand(2, 3, 48, 32, generator=generator)):
        leaf = find_leaf(image)
        for size, measure in TRAITS.values():
            values = measure(image, leaf, erode_leaf(leaf))
            assert values.shape == (2, size)
            assert bool(values.isfinite().all())


def test_the_prediction_is_the_mean_of_its_heads():
    torch.manual_seed(0)
    images = torch.cat([drawn_leaf(), drawn_leaf(lobes=3)])
    outputs = build("leaf_traits", 4, backbone="resnet18").net.eval()(images)
    assert outputs["token_logits"].shape == (2, 2, 4)
    assert torch.allclose(outputs["logits"], outputs["token_logits"].mean(1))
    quiet = build("leaf_traits", 4, backbone="resnet18", control={"trunk": False}).net.eval()(images)
    assert torch.allclose(quiet["logits"], quiet["token_logits"][:, 1:].mean(1))
    plain = build("leaf_traits", 4, backbone="resnet18", traits=[]).net.eval()(images)
    assert plain["token_logits"].shape == (2, 1, 4)
    assert float(outputs["logits"].detach().abs().max()) <= 16.0


def test_every_trait_weighs_the_same_in_the_token():
    torch.manual_seed(0)
    net = build("leaf_traits", 4, backbone="resnet18").net.train()
    images = torch.cat(
        [drawn_leaf(lobes=3 + k % 4, depth=0.1 + 0.02 * k, turn=0.1 * k) * (0.6 + 0.02 * k) for k in range(16)]
    )
    measured = net.measure(images)
    wanted = []
    for trait in ("outline", "veins", "colour"):
        values = measured[trait].double()
        deviations = (values - values.mean(0)) / (values.var(0, correction=0) + 1e-5).sqrt()
        wanted.append(deviations / math.sqrt(values.shape[1]))
        assert float(wanted[-1].square().sum(1).mean()) <= 1.0
    assert torch.allclose(net.token(images).double(), torch.cat(wanted, dim=1), atol=1e-3)


def test_new_leaves_are_told_in_the_deviations_of_the_whole_training():
    torch.manual_seed(0)
    net = build("leaf_traits", 4, backbone="resnet18", traits=["colour"]).net.train()
    batches = [torch.cat([drawn_leaf() * (0.5 + 0.05 * k) for k in some]) for some in ((0, 1, 2, 3), (4, 5, 6, 7))]
    means = [net.measure(batch)["colour"].mean(0) for batch in batches]
    for batch in batches:
        net.token(batch)
    assert torch.allclose(net.standardise["colour"].running_mean, (means[0] + means[1]) / 2, atol=1e-6)


def test_traits_are_measured_in_float32_under_autocast():
    torch.manual_seed(0)
    net = build("leaf_traits", 4, backbone="resnet18").net.eval()
    traits = net.measure(drawn_leaf())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(torch.equal(traits[trait], value) for trait, value in net.measure(drawn_leaf()).items())


def test_its_head_learns_two_outlines_from_eight_leaves():
    torch.manual_seed(0)
    method = build("leaf_traits", 2, backbone="shufflenet_v2_x0_5", traits=["outline"], control={"trunk": False})
    images = torch.cat([drawn_leaf(lobes=3 + 4 * (k % 2), turn=0.3 * k) for k in range(8)])
    labels = torch.arange(8) % 2
    heads = torch.optim.SGD(method.net.heads.parameters(), lr=0.1)
    for _ in range(10):
        parts = method.losses(method.net(images), Batch(images, labels))
        heads.zero_grad()
        sum(total / count for total, count in parts.values()).backward()
        heads.step()
    unseen = torch.cat([drawn_leaf(lobes=3 + 4 * (k % 2), turn=0.3 * k + 0.1) for k in range(8)])
    assert torch.equal(method.net.eval()(unseen)["logits"].argmax(1), labels)


def test_a_vision_transformer_may_be_its_trunk():
    torch.manual_seed(0)
    method = build("leaf_traits", 2, backbone="timm:vit_tiny_patch16_224")
    images = torch.cat([drawn_leaf(lobes=3), drawn_leaf(lobes=7)])
    parts = method.losses(method.net(images), Batch(images, torch.tensor([0, 1])))
    sum(total / count for total, count in parts.values()).backward()
    assert all(parameter.grad is not None for parameter in method.net.parameters())

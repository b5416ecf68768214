"""The shuffles of DCL against loops, written from the paper and the notes on its code."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor

from ufgvc.methods.layers.shuffle import (
    Shuffle,
    jitter_order,
    num_shuffle_uniforms,
    paste_patches,
    permute_patches,
    shuffle_order,
    split_patches,
    swap_order,
)

SHUFFLES: tuple[Shuffle, ...] = ("jitter", "coded")
LEAST, MOST = 0.0, math.nextafter(1.0, 0.0)


def random_uniforms(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- orders


def reference_jitter(uniforms: list[float], grid: int, reach: float) -> list[int]:
    """Sort every row by i + r, r ~ U(-reach, reach); then every column of what came out."""
    rows = [[r * grid + c for c in range(grid)] for r in range(grid)]
    drawn = iter(-reach + 2 * reach * u for u in uniforms)
    for r in range(grid):
        keys = [c + next(drawn) for c in range(grid)]
        rows[r] = [patch for _, patch in sorted(zip(keys, rows[r], strict=True))]
    by_row = [[r + next(drawn) for _ in range(grid)] for r in range(grid)]
    columns = [[patch for _, patch in sorted((by_row[r][c], rows[r][c]) for r in range(grid))] for c in range(grid)]
    return [columns[c][r] for r in range(grid) for c in range(grid)]


def reference_swaps(uniforms: list[float], grid: int) -> list[int]:
    """Append a patch to its row, perhaps swap the row's last two; append the row, perhaps swap the last two rows."""
    coins = [u < 0.5 for u in uniforms]
    within, between = coins[: grid * (grid - 1)], coins[grid * (grid - 1) :]
    rows: list[list[int]] = []
    for r in range(grid):
        row: list[int] = []
        for c in range(grid):
            row.append(r * grid + c)
            if c > 0 and within[r * (grid - 1) + c - 1]:
                row[-2], row[-1] = row[-1], row[-2]
        rows.append(row)
        if r > 0 and between[r - 1]:
            rows[-2], rows[-1] = rows[-1], rows[-2]
    return [patch for row in rows for patch in row]


@pytest.mark.parametrize(("grid", "reach"), [(7, 2.0), (4, 1.0), (5, 3.5), (2, 2.0)])
def test_orders_are_the_ones_that_loops_find(grid: int, reach: float):
    uniforms = random_uniforms(40, num_shuffle_uniforms("jitter", grid))
    assert jitter_order(uniforms, grid, reach).tolist() == [
        reference_jitter(row, grid, reach) for row in uniforms.tolist()
    ]
    uniforms = random_uniforms(40, num_shuffle_uniforms("coded", grid))
    assert swap_order(uniforms, grid).tolist() == [reference_swaps(row, grid) for row in uniforms.tolist()]


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_orders_are_permutations_that_each_image_draws_for_itself(shuffle: Shuffle):
    uniforms = random_uniforms(200, num_shuffle_uniforms(shuffle, 7))
    orders = shuffle_order(shuffle, uniforms, 7, 2.0)
    assert orders.dtype == torch.int64
    assert torch.equal(orders.sort(dim=1).values, torch.arange(49).expand(200, 49))
    assert len({tuple(order) for order in orders.tolist()}) == 200
    assert torch.equal(orders[7:8], shuffle_order(shuffle, uniforms[7:8], 7, 2.0))


def shifts(orders: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """(down, right): how far the patch in each place has come, (B, grid * grid)."""
    place = torch.arange(grid * grid)
    return place // grid - orders // grid, place % grid - orders % grid


@pytest.mark.parametrize("reach", [1.0, 1.7, 2.0, 3.0])
def test_jitter_moves_no_patch_by_twice_its_reach(reach: float):
    drawn = random_uniforms(2000, 98, seed=3)
    extreme = torch.where(drawn < 0.5, LEAST, MOST)
    for shift in (*shifts(jitter_order(drawn, 7, reach), 7), *shifts(jitter_order(extreme, 7, reach), 7)):
        assert shift.abs().max() < 2 * reach
    furthest = max(shift.abs().max() for shift in shifts(jitter_order(extreme, 7, reach), 7))
    assert furthest == math.ceil(2 * reach) - 1, "the bound is reached"


def probabilities(values: Tensor) -> dict[int, float]:
    return {value: count / values.numel() for value, count in Counter(values.flatten().tolist()).items()}


def test_displacements_under_jitter():
    for shift in shifts(jitter_order(random_uniforms(6000, 98, seed=4), 7, 2.0), 7):
        found = probabilities(shift)
        for by, published in {0: 0.47, 1: 0.20, -1: 0.20, 2: 0.06, -2: 0.06}.items():
            assert found[by] == pytest.approx(published, abs=0.01), by
        assert found[1] == pytest.approx(found[-1], abs=0.005)
        assert set(found) <= set(range(-3, 4))


def reference_displacements(grid: int) -> dict[int, float]:
    """Of the coded shuffle: enumerates what every coin of a line may show."""
    found: Counter[int] = Counter()
    for coins in range(2 ** (grid - 1)):
        line = [0]
        for c in range(1, grid):
            line.append(c)
            if coins >> (c - 1) & 1:
                line[-2:] = line[:-3:-1]
        found.update(place - patch for place, patch in enumerate(line))
    return {by: count / 2 ** (grid - 1) / grid for by, count in found.items()}


def test_displacements_as_coded():
    expected = reference_displacements(7)
    for by, published in {-1: 0.429, 0: 0.320, 1: 0.143, 2: 0.063, 3: 0.027}.items():
        assert expected[by] == pytest.approx(published, abs=0.002), by
    orders = swap_order(random_uniforms(6000, 48, seed=5), 7)
    down, right = shifts(orders, 7)
    for shift, tolerance in ((right, 0.005), (down, 0.015)):  # a row moves as a whole: fewer independent draws
        found = probabilities(shift)
        assert set(found) == set(range(-1, 7))
        for by, wanted in expected.items():
            assert found[by] == pytest.approx(wanted, abs=tolerance), by
    whole_rows = (right.view(-1, 7, 7) == 0).all(dim=2).double().mean()
    assert whole_rows == pytest.approx(2**-6, abs=0.004)


# --- patches


@pytest.mark.parametrize(("height", "width", "grid"), [(28, 28, 7), (64, 64, 7), (17, 22, 3)])
def test_patches_are_moved_without_a_loss(height: int, width: int, grid: int):
    images = torch.rand(3, 3, height, width)
    h, w = height // grid, width // grid
    top, left = (height - h * grid) // 2, (width - w * grid) // 2
    order = torch.stack([torch.randperm(grid * grid) for _ in range(3)])
    patches = split_patches(images, grid)
    assert patches.shape == (3, grid * grid, 3, h, w)
    expected = images.clone()
    for b in range(3):
        for place in range(grid * grid):
            y, x = top + place // grid * h, left + place % grid * w
            source = int(order[b, place])
            sy, sx = top + source // grid * h, left + source % grid * w
            expected[b, :, y : y + h, x : x + w] = images[b, :, sy : sy + h, sx : sx + w]
    for layout in (torch.contiguous_format, torch.channels_last):
        given = images.contiguous(memory_format=layout)
        shuffled = paste_patches(permute_patches(split_patches(given, grid), order), given)
        assert torch.equal(shuffled, expected)
        assert shuffled.is_contiguous(memory_format=layout)
        assert torch.equal(given, images), "the original is left alone"
    for b in range(3):
        before, after = (
            Counter(patch.numpy().tobytes() for patch in split_patches(some[b : b + 1], grid)[0])
            for some in (images, expected)
        )
        assert before == after
    assert torch.equal(paste_patches(patches, images), images)

"""The contrast of leaves: views and loss against references in loops, in float64, written from the formula."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tests.unit.test_methods import small
from ufgvc.methods import Batch, build
from ufgvc.methods.backbones import IMAGENET_MEAN
from ufgvc.methods.contrast_views import contrast_loss, contrast_views, erase_rectangle


def random_batch(count: int, side: tuple[int, int] = (12, 12), grid: int = 2, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, *side, generator=generator).contiguous(memory_format=torch.channels_last)
    uniforms = torch.rand(count, 4 + grid * grid, generator=generator, dtype=torch.float64)
    return Batch(images, torch.arange(count) % 3, uniforms=uniforms)


def unit(vector: Sequence[float]) -> list[float]:
    length = math.sqrt(math.fsum(x * x for x in vector))
    return [x / length for x in vector]


def squared(one: Sequence[float], other: Sequence[float]) -> float:
    return math.fsum((x - y) ** 2 for x, y in zip(one, other, strict=True))


def reference_loss(leaves: list[list[float]], copies: list[list[float]], margin: float) -> float:
    leaves, copies = [unit(each) for each in leaves], [unit(each) for each in copies]
    total = 0.0
    for i, leaf in enumerate(leaves):
        others = [each for views in (leaves, copies) for j, each in enumerate(views) if j != i]
        apart = math.fsum(squared(leaf, other) for other in others) / len(others)
        total += max(0.0, squared(leaf, copies[i]) - apart + margin)
    return total


@pytest.mark.parametrize("margin", [0.2, 1.0, 3.0])
def test_loss_against_loops(margin: float):
    generator = torch.Generator().manual_seed(1)
    embedding = torch.randn(14, 6, generator=generator) * torch.rand(14, 1, generator=generator) * 5
    total, count = contrast_loss(embedding, random_batch(7), margin)
    rows = embedding.double().tolist()
    assert float(count) == 7
    assert float(total) == pytest.approx(reference_loss(rows[:7], rows[7:], margin), rel=1e-5)


def test_gradient_against_differences_with_the_others_fixed():
    """Of the formula with leaf i and its copy moved and all others where they were."""
    embedding = torch.randn(8, 3, generator=torch.Generator().manual_seed(2)).requires_grad_()
    contrast_loss(embedding, random_batch(4), 3.0)[0].backward()
    rows, step = embedding.detach().double().tolist(), 1e-6

    def term(row: int, place: int, change: float) -> float:
        moved = [list(each) for each in rows]
        moved[row][place] += change
        i = row % 4
        others = [unit(rows[j]) for j in range(8) if j % 4 != i]
        leaf, copy = unit(moved[i]), unit(moved[i + 4])
        return max(0.0, squared(leaf, copy) - math.fsum(squared(leaf, each) for each in others) / 6 + 3.0)

    for row in range(8):
        for place in range(3):
            slope = (term(row, place, step) - term(row, place, -step)) / (2 * step)
            assert float(embedding.grad[row, place]) == pytest.approx(slope, abs=1e-4)


def test_leaves_of_the_same_cultivar_count_as_others():
    embedding = torch.randn(8, 5, generator=torch.Generator().manual_seed(3))
    one, many = (Batch(torch.empty(8, 0), labels) for labels in (torch.zeros(8).long(), torch.arange(8)))
    assert torch.equal(contrast_loss(embedding, one, 1.0)[0], contrast_loss(embedding, many, 1.0)[0])


def test_a_leaf_without_others_is_not_counted():
    embedding = torch.randn(2, 5, requires_grad=True)
    total, count = contrast_loss(embedding, random_batch(1), 1.0)
    assert float(total.detach()) == float(count) == 0
    total.backward()
    assert not embedding.grad.any()


def erased_cells(image: Tensor) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of the pixels that have ImageNet's mean colour, which fill this rectangle."""
    same = (image == torch.tensor(IMAGENET_MEAN).view(3, 1, 1)).all(dim=0)
    rows, columns = same.any(dim=1).nonzero().flatten(), same.any(dim=0).nonzero().flatten()
    box = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    assert same[box[0] : box[1], box[2] : box[3]].all()
    return box


@pytest.mark.parametrize("side", [(64, 64), (48, 80)])
def test_erased_rectangle_against_loops(side: tuple[int, int]):
    batch = random_batch(40, side)
    erased = erase_rectangle(batch.images, batch.uniforms[:, :4])
    for i, (share, ratio, top, left) in enumerate(batch.uniforms[:, :4].tolist()):
        area = (0.15 + 0.3 * share) * side[0] * side[1]
        ratio = 0.3 * (3.3 / 0.3) ** ratio
        tall, wide = min(round(math.sqrt(area * ratio)), side[0]), min(round(math.sqrt(area / ratio)), side[1])
        y, x = math.floor(top * (side[0] - tall + 1)), math.floor(left * (side[1] - wide + 1))
        assert erased_cells(erased[i]) == (y, y + tall, x, x + wide)
        kept = torch.ones(side, dtype=torch.bool)
        kept[y : y + tall, x : x + wide] = False
        assert torch.equal(erased[i][:, kept], batch.images[i][:, kept])


@pytest.mark.parametrize("grid", [2, 3])
def test_copies_are_shuffled_after_erasing(grid: int):
    batch = random_batch(6, (36, 36), grid)
    seen = contrast_views(batch, grid)
    erased = erase_rectangle(batch.images, batch.uniforms[:, :4])
    assert torch.equal(seen.images[:6], batch.images)
    assert torch.equal(seen.labels, torch.cat([batch.labels] * 2))
    assert seen.images.is_contiguous(memory_format=torch.channels_last)
    cell = 36 // grid
    orders = set()
    for i in range(6):
        drawn = batch.uniforms[i, 4:].tolist()
        order = sorted(range(grid * grid), key=lambda place: drawn[place])
        orders.add(tuple(order))
        for place, origin in enumerate(order):
            y, x = place // grid * cell, place % grid * cell
            v, u = origin // grid * cell, origin % grid * cell
            shown = seen.images[6 + i, :, y : y + cell, x : x + cell]
            assert torch.equal(shown, erased[i, :, v : v + cell, u : u + cell])
    assert len(orders) > 1


def test_views_depend_on_the_image_only():
    batch = random_batch(5, (32, 32))
    together = contrast_views(batch, 2).images[5:]
    alone = [
        contrast_views(Batch(batch.images[[i]], batch.labels[[i]], uniforms=batch.uniforms[[i]]), 2) for i in range(5)
    ]
    assert torch.equal(together, torch.cat([each.images[1:] for each in alone]))


def test_losses_are_of_their_own_views():
    method = small("contrast_views")
    batch = random_batch(4, (64, 64))
    seen = method.views(batch)
    outputs = method.net.eval()(seen.images)
    parts = method.losses(outputs, seen)
    logits = outputs["logits"].double()
    for name, rows in (("classification", logits[:4]), ("shuffled", logits[4:])):
        wanted = sum(
            -math.log(math.exp(row[label]) / sum(map(math.exp, row)))
            for row, label in zip(rows.tolist(), batch.labels.tolist(), strict=True)
        )
        assert float(parts[name][0]) == pytest.approx(wanted, rel=1e-5)
    assert set(parts) == set(method.loss_weights)
    assert (method.images_forwarded, method.num_uniforms) == (2.0, 8)


def test_the_published_settings():
    method = build("contrast_views", 3, backbone="resnet18")
    assert dict(method.loss_weights) == {"classification": 1.0, "shuffled": 0.75, "contrast": 1.0}
    assert (method.recipe.epochs, method.recipe.batch_size, method.recipe.rotate) == (200, 12, 15.0)
    assert (method.options["grid"], method.options["margin"]) == (2, 1.0)

"""MaskCOV's views, covariances and losses against references in loops and numpy, written from the notes on its code."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ufgvc.core.errors import UserError
from ufgvc.methods import Batch, Method, build
from ufgvc.methods.layers.shuffle import swap_order
from ufgvc.methods.maskcov import colour_covariance, maskcov_views
from ufgvc.training.optim import make_optimizer
from ufgvc.training.steps import total_loss, train_step


def tiny(**options: object) -> Method:
    torch.manual_seed(0)
    return build("maskcov", 5, backbone="resnet18", **options)


def plain_batch(count: int = 4, side: int = 64, grid: int = 2, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = (0.1 + 0.9 * torch.rand(count, 3, side, side, generator=generator)).contiguous(
        memory_format=torch.channels_last
    )
    masks = {"vein": images[:, :1].round()}
    uniforms = torch.rand(count, grid * grid, generator=generator, dtype=torch.float64)
    return Batch(images, torch.arange(count) % 5, masks, {"vein": torch.arange(count) % 2 == 0}, uniforms=uniforms)


def patches_of(image: Tensor, grid: int) -> list[np.ndarray]:
    """The patches (3, h, w) float64 of an image (3, H, W) in reading order, without the border."""
    pixels = image.double().numpy()
    h, w = pixels.shape[1] // grid, pixels.shape[2] // grid
    top, left = (pixels.shape[1] - grid * h) // 2, (pixels.shape[2] - grid * w) // 2
    corners = [(top + r * h, left + c * w) for r in range(grid) for c in range(grid)]
    return [pixels[:, y : y + h, x : x + w] for y, x in corners]


def reference_covariance(patch: np.ndarray) -> list[list[float]]:
    """sum (a - mean a)(b - mean b) / (n - 1) for each pair of colours."""
    colours = [colour.flatten().tolist() for colour in patch]
    means = [math.fsum(values) / len(values) for values in colours]
    return [
        [
            math.fsum((x - means[a]) * (y - means[b]) for x, y in zip(colours[a], colours[b], strict=True))
            / (len(colours[a]) - 1)
            for b in range(3)
        ]
        for a in range(3)
    ]


# --- covariances


def test_covariance_against_loops_and_numpy():
    patches = torch.rand(2, 3, 3, 5, 7) * torch.tensor([1.0, 0.1, 0.01]).view(3, 1, 1, 1) + 0.5
    found = colour_covariance(patches)
    assert found.shape == (2, 3, 3, 3)
    assert found.dtype == torch.float32
    for b, p in itertools.product(range(2), range(3)):
        patch = patches[b, p].double().numpy()
        assert np.allclose(found[b, p], reference_covariance(patch), rtol=1e-5, atol=1e-12)
        assert np.allclose(found[b, p], np.cov(patch.reshape(3, -1), ddof=1), rtol=1e-5, atol=1e-12)
    assert torch.equal(found, found.mT)
    assert torch.equal(colour_covariance(torch.full((1, 1, 3, 4, 4), 0.3)), torch.zeros(1, 1, 3, 3)), "one colour"


@pytest.mark.parametrize(("grid", "side"), [(2, 32), (2, 33), (3, 32)])
def test_covariance_targets_are_those_of_the_patches_that_each_view_shows(grid: int, side: int):
    seen = maskcov_views(plain_batch(3, side, grid), grid)
    assert seen.extra["covariance"].shape == (9, grid * grid * 9)
    for row in range(9):
        expected = [np.cov(patch.reshape(3, -1), ddof=1) for patch in patches_of(seen.images[row], grid)]
        assert np.allclose(seen.extra["covariance"][row], np.concatenate(expected, axis=None), rtol=1e-4, atol=1e-8)


# --- views


def black_cells(image: Tensor, grid: int) -> list[int]:
    return [cell for cell, patch in enumerate(patches_of(image, grid)) if not patch.any()]


@pytest.mark.parametrize(("grid", "side"), [(2, 64), (2, 63), (3, 64)])
def test_the_same_place_is_masked_in_the_second_and_third_view(grid: int, side: int):
    batch = plain_batch(8, side, grid)
    seen = maskcov_views(batch, grid)
    assert torch.equal(seen.images[:8], batch.images)
    cells = set()
    for i in range(8):
        masked, shuffled = seen.images[8 + i], seen.images[16 + i]
        (cell,) = black_cells(masked, grid)
        assert black_cells(shuffled, grid) == [cell]
        cells.add(cell)
        for row in (8 + i, 16 + i):
            target = seen.extra["covariance"][row].view(grid * grid, 9)
            assert [p for p in range(grid * grid) if not target[p].any()] == [cell]
        own = [patch.tobytes() for patch in patches_of(batch.images[i], grid)]
        assert [patch.tobytes() for p, patch in enumerate(patches_of(masked, grid)) if p != cell] == own[:cell] + own[
            cell + 1 :
        ]
        left = Counter(patch.tobytes() for p, patch in enumerate(patches_of(shuffled, grid)) if p != cell)
        assert left <= Counter(own), "the rest are whole patches of the image, each once"
        assert left.total() == grid * grid - 1
    assert len(cells) > 1


def test_the_order_of_the_third_view_is_the_drawn_one():
    batch = plain_batch(16)
    orders = swap_order(batch.uniforms[:, :3], 2).tolist()
    seen = maskcov_views(batch, 2)
    for i, order in enumerate(orders):
        own, shown = patches_of(batch.images[i], 2), patches_of(seen.images[32 + i], 2)
        (cell,) = black_cells(seen.images[32 + i], 2)
        assert all(np.array_equal(shown[place], own[order[place]]) for place in range(4) if place != cell)


def test_views_repeat_what_comes_with_the_images():
    batch = replace(plain_batch(3), extra={"kept": torch.arange(3)})
    state = torch.get_rng_state()
    seen = maskcov_views(batch, 2)
    assert torch.equal(torch.get_rng_state(), state), "random numbers come from the batch only"
    assert seen.images.shape == (9, 3, 64, 64)
    assert seen.images.is_contiguous(memory_format=torch.channels_last)
    assert seen.labels.tolist() == [0, 1, 2] * 3
    assert seen.extra["in_order"].long().tolist() == [1, 1, 1, 1, 1, 1, 0, 0, 0]
    assert seen.extra["kept"].tolist() == [0, 1, 2] * 3
    assert torch.equal(seen.masks["vein"], torch.cat([batch.masks["vein"]] * 3))
    assert seen.has_mask["vein"].tolist() == [True, False, True] * 3
    assert torch.equal(seen.uniforms, batch.uniforms)


def test_an_images_views_do_not_depend_on_its_company():
    batch = plain_batch(3)
    seen = maskcov_views(batch, 2)
    alone = maskcov_views(Batch(batch.images[1:2], batch.labels[1:2], uniforms=batch.uniforms[1:2]), 2)
    assert torch.equal(alone.images, seen.images[[1, 4, 7]])
    assert torch.equal(alone.extra["covariance"], seen.extra["covariance"][[1, 4, 7]])


# --- uniform numbers


def test_8_of_the_24_arrangements_are_drawn_evenly():
    each = swap_order(torch.tensor(list(itertools.product((0.25, 0.75), repeat=3)), dtype=torch.float64), 2)
    reachable = {tuple(order) for order in each.tolist()}
    # Each row in either order, and the rows in either order.
    rows = [((0, 1), (1, 0)), ((2, 3), (3, 2))]
    assert reachable == {a + b for top, below in (rows, rows[::-1]) for a in top for b in below}
    assert len(reachable) == 8
    drawn = swap_order(torch.rand(16000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 2)
    counts = Counter(tuple(order) for order in drawn.tolist())
    assert set(counts) == reachable
    # Chi squared with 7 degrees of freedom: 24.3 is passed once in a thousand times.
    assert sum((count - 2000) ** 2 / 2000 for count in counts.values()) < 24.3


def test_every_patch_is_masked_equally_often():
    uniforms = torch.rand(4000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    seen = maskcov_views(
        Batch(torch.rand(4000, 3, 4, 4) + 0.01, torch.zeros(4000, dtype=torch.int64), uniforms=uniforms), 2
    )
    black = ~seen.images[4000:8000].unflatten(3, (2, 2)).unflatten(2, (2, 2)).sum(dim=(1, 3, 5)).bool()
    assert torch.equal(black.flatten(1).sum(dim=1), torch.ones(4000, dtype=torch.int64))
    counts = black.flatten(1).sum(dim=0).tolist()
    assert sum((count - 1000) ** 2 / 1000 for count in counts) < 16.3  # 3 degrees of freedom, once in a thousand times


# --- net and losses


@pytest.mark.parametrize(("grid", "outputs"), [(2, 36), (3, 81)])
def test_heads_are_linear_without_bias(grid: int, outputs: int):
    net = tiny(grid=grid).net.eval()
    with torch.no_grad():
        made = net(torch.rand(2, 3, 64, 64))
    assert {name: made[name].shape[1] for name in ("logits", "shuffled", "covariance")} == {
        "logits": 5,
        "shuffled": 2,
        "covariance": outputs,
    }
    for head, name in ((net.classifier, "logits"), (net.shuffled, "shuffled"), (net.covariance, "covariance")):
        assert torch.allclose(made[name], made["embedding"] @ head.weight.T, atol=1e-5)


def test_losses():
    method = tiny(loss_weights={"shuffled": 0.5, "covariance": 0.01})
    batch = method.views(plain_batch(3))
    generator = torch.Generator().manual_seed(1)
    outputs = {
        name: torch.randn(9, size, generator=generator)
        for name, size in (("logits", 5), ("shuffled", 2), ("covariance", 36))
    }

    def surprise(logits: list[float], target: int) -> float:
        return math.log(sum(math.exp(value) for value in logits)) - logits[target]

    expected = Counter[str]()
    for row in range(9):
        expected["classification"] += surprise(outputs["logits"][row].tolist(), row % 3)
        expected["shuffled"] += surprise(outputs["shuffled"][row].tolist(), 1 if row < 6 else 0)
        target = np.concatenate(
            [np.cov(patch.reshape(3, -1), ddof=1) for patch in patches_of(batch.images[row], 2)], axis=None
        )
        predicted = outputs["covariance"][row].tolist()
        expected["covariance"] += sum(abs(p - t) for p, t in zip(predicted, target.tolist(), strict=True)) / 36
    parts = method.losses(outputs, batch)
    assert set(parts) == set(expected)
    for name, (total, count) in parts.items():
        assert count == 9
        assert total.item() == pytest.approx(expected[name], rel=1e-5), name
    whole = (expected["classification"] + 0.5 * expected["shuffled"] + 0.01 * expected["covariance"]) / 9
    assert total_loss(method, parts).item() == pytest.approx(whole, rel=1e-5)


def test_without_its_weight_the_covariance_teaches_nothing():
    """With the weights of both new heads at 0, what is left is cross-entropy on the three views: augmentation only."""
    method = tiny(loss_weights={"shuffled": 0.0, "covariance": 0.0})
    batch = plain_batch(4)
    method.net.train()
    train_step(method, method.net, batch, make_optimizer(method, method.recipe.stages[0]))
    found = {name: parameter.grad.clone() for name, parameter in method.net.named_parameters()}

    same = tiny()
    seen = same.views(batch)
    torch.nn.functional.cross_entropy(same.net.train()(seen.images)["logits"], seen.labels).backward()
    for name, parameter in same.net.named_parameters():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert torch.allclose(found[name], expected, atol=1e-6), name
    assert not found["covariance.weight"].any()


# --- method


def test_the_published_settings():
    method = build("maskcov", 5)
    stage = method.recipe.stages[0]
    rates = {group["name"]: group["lr"] for group in make_optimizer(method, stage).param_groups}
    assert rates == pytest.approx({"backbone": 1e-3, "head": 1e-2})
    assert (stage.epochs, stage.step_epochs, stage.gamma, stage.momentum, stage.weight_decay) == (
        160,
        60,
        0.1,
        0.9,
        0.0,
    )
    recipe = method.recipe
    assert (recipe.batch_size, recipe.resize, recipe.crop, recipe.rotate) == (16, 440, 384, 15.0)
    assert (recipe.eval_view, recipe.eval_resize) == ("resize", 384)
    assert method.loss_weights == {"classification": 1.0, "shuffled": 1.0, "covariance": 1.0}
    assert (method.images_forwarded, method.num_uniforms) == (3.0, 4)


@pytest.mark.parametrize("options", [{"grid": 1}, {"grid": 17}, {"loss_weights": {"covariance": -1}}])
def test_options_that_make_no_sense_are_refused(options: dict[str, object]):
    with pytest.raises(UserError, match=next(iter(options))):
        tiny(**options)

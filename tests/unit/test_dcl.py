"""DCL's targets and losses against references in loops, written here from the paper and from the notes on its code."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ufgvc.core.errors import UserError
from ufgvc.methods import Batch, Method, build
from ufgvc.methods.dcl import DCLNet, dcl_losses, dcl_views, location_targets
from ufgvc.methods.layers.shuffle import (
    Shuffle,
    jitter_order,
    match_patches,
    num_shuffle_uniforms,
    permute_patches,
    shuffle_order,
    split_patches,
)
from ufgvc.training.optim import make_optimizer
from ufgvc.training.steps import total_loss, train_step

SHUFFLES: tuple[Shuffle, ...] = ("jitter", "coded")


def random_uniforms(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def views_batch(count: int = 3, side: int = 56, shuffle: Shuffle = "jitter", grid: int = 7, seed: int = 0) -> Batch:
    images = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))
    images = images.contiguous(memory_format=torch.channels_last)
    masks = {"vein": images[:, :1].round()}
    has = {"vein": torch.arange(count) % 2 == 0}
    return Batch(
        images,
        torch.arange(count) % 5,
        masks,
        has,
        uniforms=random_uniforms(count, num_shuffle_uniforms(shuffle, grid), seed),
    )


def small_net(adversary: str = "classes", classes: int = 5, grid: int = 7) -> DCLNet:
    """On a backbone that is one convolution: 224 px give a map of 14 x 14."""
    torch.manual_seed(0)
    return DCLNet(nn.Conv2d(3, 8, kernel_size=16, stride=16), 8, classes, grid, adversary)


# --- targets


def test_places_of_an_image_in_order_lie_evenly_around_0():
    law = location_targets(torch.arange(49)[None])[0]
    assert torch.allclose(law, torch.linspace(-24 / 49, 24 / 49, 49), atol=1e-7)
    assert law.abs().mean() == pytest.approx(0.2499, abs=5e-5)


@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize(("grid", "side"), [(7, 56), (7, 64), (4, 32)])
def test_a_shuffled_patch_is_labelled_with_its_origin(shuffle: Shuffle, grid: int, side: int):
    """Each patch is painted in its own number, which is then read off the shuffled image."""
    batch, n, step = views_batch(4, side, shuffle, grid), grid * grid, side // grid
    frame = (side - step * grid) // 2
    painted = batch.images.clone()
    for i in range(n):
        y, x = frame + i // grid * step, frame + i % grid * step
        painted[:, :, y : y + step, x : x + step] = i / n
    seen = dcl_views(replace(batch, images=painted), grid, shuffle, 2.0, "tracked")
    for row in range(8):
        for i in range(n):
            y, x = frame + i // grid * step, frame + i % grid * step
            origin = round(float(seen.images[row, 0, y, x]) * n)
            assert seen.extra["location"][row, i].item() == pytest.approx((origin - n // 2) / n, abs=1e-6)
            assert row >= 4 or origin == i
    assert not torch.equal(seen.extra["location"][:4], seen.extra["location"][4:])


def reference_match(patches: np.ndarray, shuffled: np.ndarray) -> list[int]:
    """For each patch now there, the first of the original ones whose sum of channel means is nearest."""

    def brightness(patch: np.ndarray) -> float:
        return sum(math.fsum(channel.flatten().tolist()) / channel.size for channel in patch)

    known = [brightness(patch) for patch in patches]
    found = []
    for patch in shuffled:
        distances = [abs(brightness(patch) - other) for other in known]
        found.append(distances.index(min(distances)))
    return found


def test_matching_by_brightness_finds_the_origin_in_noise_only():
    batch = views_batch(3, 56)
    tracked, matched = (dcl_views(batch, 7, "jitter", 2.0, how).extra["location"] for how in ("tracked", "matched"))
    assert torch.equal(tracked, matched)

    leaf = torch.ones_like(batch.images)
    leaf[:, :, 16:40, 16:40] = batch.images[:, :, 16:40, 16:40]  # 3 x 3 patches of leaf on a plain ground
    tracked, matched = (
        dcl_views(replace(batch, images=leaf), 7, "jitter", 2.0, how).extra["location"]
        for how in ("tracked", "matched")
    )
    assert not torch.equal(tracked, matched)
    order = jitter_order(batch.uniforms, 7, 2.0)
    patches = split_patches(leaf, 7)
    shuffled = permute_patches(patches, order)
    expected = [reference_match(a, b) for a, b in zip(patches.double().numpy(), shuffled.double().numpy(), strict=True)]
    assert match_patches(patches, shuffled).tolist() == expected
    assert torch.allclose(matched[3:], (torch.tensor(expected) - 24) / 49.0)
    assert (torch.tensor(expected) == 0).sum() == 3 * 40, "every patch of the ground counts as the first"


# --- views


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_views_are_the_originals_and_then_the_shuffled(shuffle: Shuffle):
    batch = replace(views_batch(3, 56, shuffle), extra={"kept": torch.arange(3)})
    state = torch.get_rng_state()
    seen = dcl_views(batch, 7, shuffle, 2.0, "tracked")
    assert torch.equal(torch.get_rng_state(), state), "random numbers come from the batch only"
    assert seen.images.shape == (6, 3, 56, 56)
    assert seen.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(seen.images[:3], batch.images)
    assert torch.equal(seen.images[3:].flatten(2).sort().values, batch.images.flatten(2).sort().values)
    assert all(not torch.equal(seen.images[i], seen.images[3 + i]) for i in range(3))
    assert seen.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert seen.extra["shuffled"].tolist() == [False] * 3 + [True] * 3
    assert seen.extra["kept"].tolist() == [0, 1, 2, 0, 1, 2]
    assert torch.equal(seen.masks["vein"], torch.cat([batch.masks["vein"]] * 2))
    assert seen.has_mask["vein"].tolist() == [True, False, True] * 2
    assert torch.equal(seen.uniforms, batch.uniforms)


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_an_images_views_do_not_depend_on_its_company(shuffle: Shuffle):
    batch = views_batch(3, 56, shuffle)
    seen = dcl_views(batch, 7, shuffle, 2.0, "tracked")
    alone = dcl_views(
        Batch(batch.images[1:2], batch.labels[1:2], uniforms=batch.uniforms[1:2]), 7, shuffle, 2.0, "tracked"
    )
    assert torch.equal(alone.images, seen.images[[1, 4]])
    assert torch.equal(alone.extra["location"], seen.extra["location"][[1, 4]])


# --- net


def test_the_places_are_an_average_over_2_x_2_cells():
    net = small_net().train()
    images = 20 * torch.randn(2, 3, 224, 224)
    outputs = net(images)
    assert outputs["features"].shape[2:] == (14, 14)
    conv = functional.conv2d(outputs["features"], net.location.weight, net.location.bias)
    expected = functional.avg_pool2d(conv, kernel_size=2, stride=2).tanh().flatten(1)
    assert outputs["location"].shape == (2, 49)
    assert torch.allclose(outputs["location"], expected, atol=1e-6)
    assert outputs["location"].abs().max() <= 1
    assert net(images[:, :, :64, :96])["location"].shape == (2, 49), "maps of other sizes work"


def test_heads_have_no_bias_but_the_places():
    by_class, binary = small_net("classes"), small_net("binary")
    assert by_class.adversary.out_features == 10
    assert binary.adversary.out_features == 2
    assert by_class.classifier.bias is by_class.adversary.bias is None
    assert by_class.location.bias.shape == (1,)


def test_logits_by_class_are_a_sum_in_tests_only():
    images = torch.rand(3, 3, 64, 64)
    net = small_net("classes")
    embedding = net.backbone(images).mean(dim=(2, 3)).detach()
    a, b = embedding @ net.classifier.weight.detach().T, embedding @ net.adversary.weight.detach().T
    expected = [[float(a[i, k] + b[i, k] + b[i, 5 + k]) for k in range(5)] for i in range(3)]
    assert torch.allclose(net.eval()(images)["logits"], torch.tensor(expected), atol=1e-6)
    assert torch.allclose(net.train()(images)["logits"], a, atol=1e-6)
    net = small_net("binary")
    assert torch.equal(net.eval()(images)["logits"], net.train()(images)["logits"])


# --- losses


def reference_losses(
    outputs: dict[str, Tensor], labels: list[int], origins: list[list[int]], adversary: str
) -> dict[str, float]:
    """Means over 2B images, the first half original, in float64."""

    def surprise(logits: list[float], target: int) -> float:
        return math.log(sum(math.exp(value) for value in logits)) - logits[target]

    half, classes = len(labels) // 2, outputs["logits"].shape[1]
    sums = Counter[str]()
    for i, label in enumerate(labels):
        sums["classification"] += surprise(outputs["logits"][i].tolist(), label)
        original, shuffled_class = (label, label + classes) if adversary == "classes" else (0, 1)
        sums["adversarial"] += surprise(outputs["adversary"][i].tolist(), original if i < half else shuffled_class)
        places = outputs["location"][i].tolist()
        sums["location"] += (
            sum(abs(place - (origin - 24) / 49) for place, origin in zip(places, origins[i], strict=True)) / 49
        )
    return {name: total / len(labels) for name, total in sums.items()}


@pytest.mark.parametrize("adversary", ["binary", "classes"])
@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_losses(adversary: str, shuffle: Shuffle):
    method = build(
        "dcl",
        5,
        backbone="resnet18",
        adversary=adversary,
        shuffle=shuffle,
        loss_weights={"adversarial": 0.5, "location": 0.01},
    )
    batch = method.views(views_batch(3, 56, shuffle))
    with torch.no_grad():
        outputs = small_net(adversary).train()(batch.images)
    moved = shuffle_order(shuffle, batch.uniforms, 7, 2.0).tolist()
    expected = reference_losses(outputs, batch.labels.tolist(), [list(range(49))] * 3 + moved, adversary)
    parts = method.losses(outputs, batch)
    assert set(parts) == set(expected)
    for name, (total, count) in parts.items():
        assert count == 6
        assert total.item() / 6 == pytest.approx(expected[name], rel=1e-5), name
    whole = expected["classification"] + 0.5 * expected["adversarial"] + 0.01 * expected["location"]
    assert total_loss(method, parts).item() == pytest.approx(whole, rel=1e-5)


def test_a_net_that_says_0_for_every_place_errs_by_a_quarter():
    batch = dcl_views(views_batch(4), 7, "jitter", 2.0, "tracked")
    outputs = {"logits": torch.zeros(8, 5), "adversary": torch.zeros(8, 10), "location": torch.zeros(8, 49)}
    total, count = dcl_losses(outputs, batch, 5, "classes")["location"]
    assert total / count == pytest.approx(0.2499, abs=5e-5)


@pytest.mark.parametrize("adversary", ["binary", "classes"])
def test_swapping_the_images_of_a_pair_changes_the_targets_of_the_new_heads_only(adversary: str):
    batch = dcl_views(views_batch(3), 7, "jitter", 2.0, "tracked")
    generator = torch.Generator().manual_seed(1)
    outputs = {
        "logits": torch.randn(6, 5, generator=generator),
        "adversary": torch.randn(6, 2 if adversary == "binary" else 10, generator=generator),
        "location": torch.rand(6, 49, generator=generator) - 0.5,
    }

    def swap(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.roll(3, dims=0) for name, tensor in tensors.items()}

    swapped = replace(batch, labels=batch.labels.roll(3), extra=swap(dict(batch.extra)))
    assert torch.equal(swapped.labels, batch.labels)
    assert torch.equal(swapped.extra["shuffled"], ~batch.extra["shuffled"])

    def loss(outputs: dict[str, Tensor], batch: Batch) -> dict[str, float]:
        return {name: total.item() for name, (total, _) in dcl_losses(outputs, batch, 5, adversary).items()}

    before, other_targets, both = loss(outputs, batch), loss(outputs, swapped), loss(swap(outputs), swapped)
    assert both == pytest.approx(before, rel=1e-5)
    assert other_targets["classification"] == before["classification"]
    assert other_targets["adversarial"] != pytest.approx(before["adversarial"], rel=1e-3)
    assert other_targets["location"] != pytest.approx(before["location"], rel=1e-3)


# --- method


def tiny(**options: object) -> Method:
    torch.manual_seed(0)
    return build("dcl", 5, backbone="resnet18", **options)


def test_the_published_settings():
    method = build("dcl", 5)
    stage = method.recipe.stages[0]
    rates = {group["name"]: group["lr"] for group in make_optimizer(method, stage).param_groups}
    assert rates == pytest.approx({"backbone": 8e-4, "head": 8e-3})
    assert (stage.epochs, stage.step_epochs, stage.gamma, stage.momentum, stage.weight_decay) == (
        360,
        60,
        0.1,
        0.9,
        0.0,
    )
    recipe = method.recipe
    assert (recipe.batch_size, recipe.resize, recipe.crop, recipe.rotate, recipe.eval_view) == (
        16,
        512,
        448,
        15.0,
        "center_crop",
    )
    assert method.loss_weights == {"classification": 1.0, "adversarial": 1.0, "location": 1.0}
    assert method.options["adversary"] == "classes"
    assert (method.images_forwarded, method.num_uniforms) == (2.0, 98)
    assert build("dcl", 5, backbone="resnet18", shuffle="coded").num_uniforms == 48


def test_the_other_options_train_every_parameter():
    method = tiny(adversary="binary", shuffle="coded", location_targets="matched", grid=4)
    batch = views_batch(4, 64, "coded", 4)
    method.net.train()
    done = train_step(method, method.net, batch, make_optimizer(method, method.recipe.stages[0]))
    assert (done.count, done.images) == (8, 4)
    assert all(torch.isfinite(total) for total, _ in done.losses.values())
    for name, parameter in method.net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    "options", [{"grid": 1}, {"reach": 0}, {"adversary": "cls_mul"}, {"loss_weights": {"gamma": 1}}]
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object]):
    with pytest.raises(UserError, match=next(iter(options))):
        tiny(**options)

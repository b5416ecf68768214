"""DCL's net, losses and settings, against references written here from the paper and from the notes on its code."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.unit.dcl_batches import SHUFFLES, views_batch
from ufgvc.core.errors import UserError
from ufgvc.methods import Batch, Method, build
from ufgvc.methods.dcl import DCLNet, dcl_losses, dcl_views
from ufgvc.methods.layers.shuffle import Shuffle, shuffle_order
from ufgvc.training.optim import make_optimizer
from ufgvc.training.steps import total_loss, train_step


def small_net(adversary: str = "classes", classes: int = 5, grid: int = 7) -> DCLNet:
    """On a backbone that is one convolution: 224 px give a map of 14 x 14."""
    torch.manual_seed(0)
    return DCLNet(nn.Conv2d(3, 8, kernel_size=16, stride=16), 8, classes, grid, adversary)


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

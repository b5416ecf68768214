"""Equations 2 to 8 of the paper against a float64 reference that is written here from the text, in loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ufgvc.core.errors import UserError
from ufgvc.methods import Batch, Method, build
from ufgvc.methods.layers.attention import MaskAttention, activate, fuse
from ufgvc.methods.mask_guided import attention_target, mask_guided_losses
from ufgvc.training.steps import total_loss

ACTIVATIONS = ("sigmoid", "softmax", "softmax_peak")
REGIONS = ("vein", "contour")


def tiny(**options: object) -> Method:
    torch.manual_seed(0)
    return build("mask_guided", 4, backbone="resnet18", **options)


def tiny_batch(count: int = 3, side: int = 96) -> Batch:
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(count, 3, side, side, generator=generator)
    masks = {region: (torch.rand(count, 1, side, side, generator=generator) > 0.7).float() for region in REGIONS}
    return Batch(
        images, torch.arange(count) % 4, masks, {region: torch.ones(count, dtype=torch.bool) for region in REGIONS}
    )


def reference_attention(features: np.ndarray, weight: tuple[float, float], activation: str) -> np.ndarray:
    """Eq. 2 to 4 for one image: features (C, h, w) float64 -> (h, w)."""
    channels, height, width = features.shape
    logits = np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            mean = sum(features[c, y, x] for c in range(channels)) / channels
            largest = max(features[c, y, x] for c in range(channels))
            logits[y, x] = weight[0] * mean + weight[1] * largest
    if activation == "sigmoid":
        return np.array([[1 / (1 + math.exp(-value)) for value in row] for row in logits])
    powers = np.array([[math.exp(value) for value in row] for row in logits])
    softmax = powers / powers.sum()
    return softmax if activation == "softmax" else softmax / softmax.max()


def reference_target(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Average over each cell, divided by the largest: mask (H, W) whose sides the map's sides divide -> (h, w)."""
    height, width = mask.shape[0] // size[0], mask.shape[1] // size[1]
    cells = np.array(
        [
            [mask[y * height : (y + 1) * height, x * width : (x + 1) * width].mean() for x in range(size[1])]
            for y in range(size[0])
        ]
    )
    return cells / cells.max() if cells.max() > 0 else cells


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_equations_2_to_8(activation: str):
    method = tiny(activation=activation)
    # Far from the start near 0, so that a wrong order of mean and maximum shows.
    kernels = {"vein": (0.9, -0.2), "contour": (-0.4, 0.3)}
    with torch.no_grad():
        for region, values in kernels.items():
            method.net.attention[region].conv.weight.copy_(torch.tensor(values).view(1, 2, 1, 1))
    batch = tiny_batch()
    method.net.eval()
    with torch.no_grad():
        outputs = method.net(batch.images)
        parts = method.losses(outputs, batch)
        total = float(total_loss(method, parts))

    features = outputs["features"].double().numpy()
    head = method.net.classifier.weight.detach().double().numpy()
    alpha, beta, gamma = 0.3, 0.5, 0.2
    squared = dict.fromkeys(REGIONS, 0.0)
    entropy = 0.0
    count, _, height, width = features.shape
    for image in range(count):
        vein, contour = (reference_attention(features[image], kernels[region], activation) for region in REGIONS)
        np.testing.assert_allclose(outputs["attention"]["vein"][image, 0], vein, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(outputs["attention"]["contour"][image, 0], contour, rtol=1e-4, atol=1e-6)
        fused = alpha * features[image] + beta * vein * features[image] + gamma * contour * features[image]
        np.testing.assert_allclose(outputs["fused"][image], fused, rtol=1e-4, atol=1e-6)
        logits = head @ fused.mean(axis=(1, 2))
        np.testing.assert_allclose(outputs["logits"][image], logits, rtol=1e-3, atol=1e-5)
        entropy += math.log(sum(math.exp(value) for value in logits)) - logits[int(batch.labels[image])]
        for region, map_ in (("vein", vein), ("contour", contour)):
            target = reference_target(batch.masks[region][image, 0].double().numpy(), (height, width))
            squared[region] += sum((target[y, x] - map_[y, x]) ** 2 for y in range(height) for x in range(width)) / (
                height * width
            )
    for region in REGIONS:
        assert float(parts[region][0] / parts[region][1]) == pytest.approx(squared[region] / count, rel=1e-4)
    expected = 0.1 * squared["vein"] / count + 0.1 * squared["contour"] / count + 1.0 * entropy / count
    assert total == pytest.approx(expected, rel=1e-4)


def test_ranges_of_the_activations():
    logits = torch.randn(5, 1, 7, 7) * 30
    assert ((activate(logits, "sigmoid") >= 0) & (activate(logits, "sigmoid") <= 1)).all()
    assert torch.allclose(activate(logits, "softmax").sum((1, 2, 3)), torch.ones(5))
    assert torch.equal(activate(logits, "softmax_peak").amax((1, 2, 3)), torch.ones(5))
    assert torch.isfinite(activate(logits * 100, "softmax_peak")).all()


def test_attention_starts_near_the_middle_and_not_the_same_for_all():
    features = torch.rand(2, 512, 7, 7) * 8
    for seed in range(20):
        torch.manual_seed(seed)
        first, second = MaskAttention("sigmoid"), MaskAttention("sigmoid")
        assert (first(features) - 0.5).abs().max() < 0.15
        assert not torch.equal(first(features), second(features))
    assert first.conv.bias is None
    assert first.conv.weight.numel() == 2


def test_the_two_maps_differ_and_are_one_only_if_the_convolution_is_shared():
    """The released code applies one convolution twice, so both of its maps are the same."""
    method = tiny()
    batch = tiny_batch()
    maps = method.net.eval()(batch.images)["attention"]
    assert not torch.equal(maps["vein"], maps["contour"])
    shared = tiny(control={"maps": "shared"}).net
    assert list(shared.attention) == ["shared"]
    maps = shared.eval()(batch.images)["attention"]
    assert torch.equal(maps["vein"], maps["contour"])


def test_full_attention_gives_the_features_back():
    features = torch.randn(2, 8, 3, 3)
    ones = {region: torch.ones(2, 1, 3, 3) for region in REGIONS}
    for regions in ((), ("vein",), ("contour",), REGIONS):
        net = tiny(regions=regions).net
        assert net.base + sum(net.fusion.values()) == pytest.approx(1)
        kept = {region: ones[region] for region in regions}
        assert torch.allclose(fuse(features, kept, net.base, net.fusion), features, atol=1e-6)
    nothing = {region: torch.zeros(2, 1, 3, 3) for region in REGIONS}
    assert torch.allclose(fuse(features, nothing, 0.3, {"vein": 0.5, "contour": 0.2}), 0.3 * features)


@pytest.mark.parametrize(
    ("options", "fusion"),
    [
        ({}, {"base": 0.3, "vein": 0.5, "contour": 0.2}),
        ({"regions": []}, {"base": 1.0}),
        ({"regions": ["vein"]}, {"base": 0.375, "vein": 0.625}),
        ({"regions": ["contour"]}, {"base": 0.6, "contour": 0.4}),
        ({"fusion": {"base": 1, "vein": 1, "contour": 2}}, {"base": 0.25, "vein": 0.25, "contour": 0.5}),
        ({"fusion": {"vein": 0}}, {"base": 0.6, "vein": 0.0, "contour": 0.4}),
        ({"variant": "released_code"}, {"base": 0.2, "vein": 0.7, "contour": 0.1}),
        ({"variant": "released_code", "regions": ["vein"]}, {"base": 0.65, "vein": 0.35}),
    ],
)
def test_weights_of_the_ablations_and_variants(options: dict[str, object], fusion: dict[str, float]):
    method = tiny(**options)
    assert {"base": method.net.base, **method.net.fusion} == pytest.approx(fusion)
    assert set(method.net.attention) == set(fusion) - {"base"} == set(method.regions)
    assert set(method.loss_weights) == {"classification", *method.regions}


def test_without_regions_the_net_is_the_plain_one():
    method = tiny(regions=[])
    outputs = method.net.eval()(tiny_batch().images)
    assert torch.equal(outputs["fused"], outputs["features"])
    assert set(method.losses(outputs, tiny_batch())) == {"classification"}


def test_variants_differ_as_the_text_and_the_code_do():
    paper, code = tiny(), tiny(variant="released_code")
    first, second = paper.recipe.stages[0], code.recipe.stages[0]
    assert (first.lr, first.step_epochs, first.gamma, first.momentum) == (0.003, 100, 0.1, 0.938)
    assert (second.lr, second.step_epochs, second.gamma, second.momentum) == (0.0008, 60, 0.13, 0.938)
    assert (paper.recipe.resize, paper.recipe.crop, paper.recipe.eval_resize) == (512, 448, 448)
    assert (code.recipe.resize, code.recipe.crop, code.recipe.eval_resize) == (512, 448, 512)
    assert paper.loss_weights == code.loss_weights == {"classification": 1.0, "vein": 0.1, "contour": 0.1}
    assert tiny(variant="released_code", regions=["vein"]).loss_weights == {"classification": 1.0, "vein": 0.2}
    assert paper.is_head("attention.vein.conv.weight")
    assert not code.is_head("attention.vein.conv.weight")


def test_bad_weights_and_regions_are_refused():
    with pytest.raises(UserError, match="all 0"):
        tiny(regions=["vein"], fusion={"base": 0, "vein": 0})
    with pytest.raises(UserError, match="named twice"):
        tiny(regions=["vein", "vein"])
    with pytest.raises(UserError, match=r"fusion\.vein"):
        tiny(fusion={"vein": -1})
    with pytest.raises(UserError, match=r"regions\.0: .*such as petiole_tip"):
        tiny(regions=["Petiole tip"])


def test_targets_peak_at_1_and_empty_masks_are_marked():
    mask = torch.zeros(3, 1, 64, 64)
    mask[0, 0, :40, :20] = 1
    mask[2, 0, 5, 5] = 1
    target, has = attention_target(mask, (4, 4))
    assert has.tolist() == [True, False, True]
    assert target.shape == (3, 1, 4, 4)
    assert target.amax((1, 2, 3)).tolist() == [1, 0, 1]
    assert target.amin() == 0
    np.testing.assert_allclose(target[0, 0], reference_target(mask[0, 0].double().numpy(), (4, 4)), rtol=1e-6)
    assert attention_target(torch.ones(1, 1, 50, 50), (7, 7))[0].eq(1).all(), "sides that do not divide"


def test_the_squared_error_counts_only_images_with_that_mask():
    method = tiny()
    batch = tiny_batch(4)
    batch.masks["vein"][1] = 0  # nothing of it is left in the crop
    batch.has_mask["vein"][2] = False  # never had one
    outputs = method.net.eval()(batch.images)
    total, count = method.losses(outputs, batch)["vein"]
    assert count == 2 * 3 * 3
    target, _ = attention_target(batch.masks["vein"], (3, 3))
    error = (outputs["attention"]["vein"] - target).square()
    assert torch.allclose(total / count, error[[0, 3]].mean())


def test_no_mask_at_all_is_a_loss_of_0_with_finite_gradients():
    method = tiny()
    batch = tiny_batch()
    nothing = {region: torch.zeros(3, dtype=torch.bool) for region in REGIONS}
    batch = Batch(batch.images, batch.labels, batch.masks, nothing)
    parts = method.losses(method.net(batch.images), batch)
    assert [parts[region][1].item() for region in REGIONS] == [0, 0]
    total = total_loss(method, parts)
    assert torch.allclose(total, parts["classification"][0] / 3)
    total.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in method.net.parameters())


def test_training_without_masks_tells_how_to_make_them():
    method = tiny()
    batch = tiny_batch()
    with pytest.raises(UserError, match="needs the vein masks"):
        mask_guided_losses(method.net(batch.images), Batch(batch.images, batch.labels), REGIONS)


def test_attention_that_sees_every_channel():
    net = tiny(control={"statistics": "all"}).net.eval()
    outputs = net(tiny_batch().images)
    kernel = net.attention["vein"].conv.weight
    assert kernel.shape == (1, outputs["features"].shape[1], 1, 1)
    logits = (outputs["features"] * kernel[0, :, 0, 0][:, None, None]).sum(dim=1, keepdim=True)
    assert torch.allclose(outputs["attention"]["vein"], logits.sigmoid(), atol=1e-5)


def test_a_constant_gain_multiplies_the_logits():
    images = tiny_batch().images
    plain, smaller = (tiny(regions=[], control={"gain": gain}).net.eval()(images) for gain in (1.0, 0.65))
    assert torch.allclose(smaller["fused"], 0.65 * plain["features"], atol=1e-6)
    assert torch.allclose(smaller["logits"], 0.65 * plain["logits"], atol=1e-5)


def test_guides_that_tell_nothing_of_the_leaf():
    batch = tiny_batch()
    batch.has_mask["vein"][0] = False
    assert tiny().views(batch) is batch
    shuffled = tiny(control={"guide": "shuffled"}).views(batch)
    centre = tiny(control={"guide": "centre"}).views(batch)
    for seen in (shuffled, centre):
        assert seen.images is batch.images
        assert seen.labels is batch.labels
        assert set(seen.masks) == set(REGIONS)
    assert shuffled.has_mask["vein"].tolist() == [True, False, True], "whether there is a mask goes with it"
    assert centre.has_mask["vein"].tolist() == [False, True, True]
    for region in REGIONS:
        for image, other in ((0, 2), (1, 0), (2, 1)):
            assert torch.equal(shuffled.masks[region][image], batch.masks[region][other])
        blob = centre.masks[region]
        assert blob.shape == batch.masks[region].shape
        assert torch.equal(blob[0], blob[1])
        assert torch.allclose(blob, blob.flip(2, 3), atol=1e-5)
        assert 0.99 < float(blob[0, 0, 48, 48]) <= 1.0
        # A fifth of the side away from the middle: one standard deviation.
        assert float(blob[0, 0, 48, 48 + 19]) == pytest.approx(math.exp(-0.5), abs=0.03)


def test_softmax_to_the_letter_hardly_learns():
    """Why sigmoid is the default: at the start, the softmax attention has a many times smaller gradient."""
    pull = {}
    batch = tiny_batch(side=224)
    for activation in ACTIVATIONS:
        method = tiny(activation=activation)
        method.net.backbone.requires_grad_(False)  # only the attention's gradient is looked at
        total, count = method.losses(method.net.eval()(batch.images), batch)["vein"]
        (total / count).backward()
        pull[activation] = float(method.net.attention["vein"].conv.weight.grad.norm())
    assert pull["sigmoid"] > 5 * pull["softmax"]

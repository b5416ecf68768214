"""Region tokens: loss and pooling against loops in float64, cosine heads, maps of the right layers."""

from __future__ import annotations

import math

import pytest
import torch

from ufgvc.core.errors import UserError
from ufgvc.methods import Batch, build
from ufgvc.methods.backbones import build_backbone
from ufgvc.methods.region_tokens import TokenHead, dice_loss, two_maps, weighted_mean


def dice_by_hand(attention: list[float], target: list[float]) -> float:
    both = sum(a * t for a, t in zip(attention, target, strict=True))
    return 1 - 2 * both / (sum(a * a for a in attention) + sum(t * t for t in target))


def test_dice_loss_is_the_formula():
    generator = torch.Generator().manual_seed(0)
    attention, target = torch.rand(3, 1, 4, 5, generator=generator), torch.rand(3, 1, 4, 5, generator=generator).round()
    for one, wanted, got in zip(attention, target, dice_loss(attention, target), strict=True):
        assert math.isclose(dice_by_hand(one.flatten().tolist(), wanted.flatten().tolist()), float(got), abs_tol=1e-6)
    assert torch.allclose(dice_loss(target, target), torch.zeros(3), atol=1e-6)
    assert torch.allclose(dice_loss(1 - target, target), torch.ones(3), atol=1e-6)


def test_a_token_is_the_mean_under_the_attention():
    generator = torch.Generator().manual_seed(1)
    features, weights = torch.randn(2, 3, 4, 4, generator=generator), torch.rand(2, 1, 4, 4, generator=generator)
    token = weighted_mean(features, weights)
    for image in range(2):
        flat = weights[image, 0].flatten().tolist()
        for channel in range(3):
            values = features[image, channel].flatten().tolist()
            assert math.isclose(
                sum(v * w for v, w in zip(values, flat, strict=True)) / sum(flat),
                float(token[image, channel]),
                abs_tol=1e-5,
            )
    assert torch.equal(weighted_mean(features, torch.zeros(2, 1, 4, 4)), torch.zeros(2, 3))
    assert torch.allclose(weighted_mean(features, torch.ones(2, 1, 4, 4)), features.mean((2, 3)), atol=1e-6)


def test_cosine_heads_see_the_direction_of_a_token_only():
    torch.manual_seed(0)
    head, token = TokenHead(8, 5, "cosine", 16.0), torch.randn(4, 8)
    logits = head(token)
    assert torch.allclose(logits, head(100 * token), atol=1e-4)
    for row, one in zip(logits, token.double(), strict=True):
        for value, weight in zip(row, head.weight.double(), strict=True):
            assert math.isclose(
                16 * float((one @ weight / one.norm() / weight.norm()).detach()), float(value.detach()), abs_tol=1e-4
            )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head(token), logits)
    linear = TokenHead(8, 5, "linear", 16.0)
    assert torch.allclose(linear(2 * token), 2 * linear(token), atol=1e-5)


def test_the_finer_map_of_a_resnet_is_that_of_layer_3():
    backbone = build_backbone("resnet18", "none").eval()
    images = torch.rand(2, 3, 64, 64)
    finer, last = two_maps(backbone, images)
    assert finer.shape == (2, 256, 4, 4)
    assert torch.equal(last, backbone(images))
    other = build_backbone("mobilenet_v3_small", "none").eval()
    finer, last = two_maps(other, images)
    assert torch.equal(finer, last)


def test_backbones_that_take_no_small_image():
    method = build("region_tokens", 4, backbone="inception_v3")
    outputs = method.net.eval()(torch.rand(1, 3, 96, 96))
    assert outputs["attention"]["vein"].shape == (1, 1, 1, 1)
    assert outputs["logits"].shape == (1, 4)


def test_losses_count_only_images_with_a_mask_and_weigh_as_asked():
    torch.manual_seed(0)
    method = build("region_tokens", 4, backbone="resnet18", mask_weight=0.5, token_weight=0.25)
    assert dict(method.loss_weights) == {"classification": 1.0, "tokens": 0.25, "vein": 0.5, "contour": 0.5}
    masks = {region: torch.ones(3, 1, 64, 64) for region in ("vein", "contour")}
    masks["contour"][2] = 0
    has = {"vein": torch.tensor([True, False, False]), "contour": torch.ones(3, dtype=torch.bool)}
    batch = Batch(torch.rand(3, 3, 64, 64), torch.tensor([0, 1, 2]), masks, has)
    outputs = method.net.eval()(batch.images)
    parts = method.losses(outputs, batch)
    assert {name: int(count) for name, (_, count) in parts.items()} == {
        "classification": 3,
        "tokens": 9,
        "vein": 1,
        "contour": 2,
    }
    assert torch.allclose(outputs["logits"], outputs["token_logits"].mean(1))
    first = outputs["attention"]["vein"][:1]
    assert math.isclose(
        float(parts["vein"][0].detach()), dice_by_hand(first.flatten().tolist(), [1.0] * first.numel()), abs_tol=1e-6
    )
    with pytest.raises(UserError, match="needs the vein masks"):
        method.losses(outputs, Batch(batch.images, batch.labels))


def test_without_regions_it_is_a_cosine_classifier():
    method = build("region_tokens", 4, backbone="resnet18", regions=[])
    outputs = method.net.eval()(torch.rand(2, 3, 64, 64))
    assert outputs["token_logits"].shape == (2, 1, 4)
    assert float(outputs["logits"].detach().abs().max()) <= 16.0
    assert set(method.loss_weights) == {"classification", "tokens"}


def test_a_vision_transformer_gives_tokens_on_its_grid():
    torch.manual_seed(0)
    method = build("region_tokens", 4, backbone="timm:vit_tiny_patch16_224")
    masks = {region: torch.ones(2, 1, 64, 64) for region in ("vein", "contour")}
    batch = Batch(torch.rand(2, 3, 64, 64), torch.tensor([0, 1]), masks)
    outputs = method.net(batch.images)
    assert outputs["attention"]["vein"].shape == (2, 1, 4, 4)
    parts = method.losses(outputs, batch)
    sum(total / count for total, count in parts.values()).backward()
    assert all(parameter.grad is not None for parameter in method.net.parameters())

"""NTS-Net's cutting of parts and the whole net against slow references in loops; settings, dropout, batch norm."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.unit.nts_references import CLASSES, reference_anchors, reference_choice, reference_cut, tiny, tiny_images
from ufgvc.core.errors import UserError
from ufgvc.methods import Batch, build
from ufgvc.methods.layers.anchors import crop_and_resize, make_anchors, to_boxes
from ufgvc.methods.nts_net import NtsNet

# --- parts


def test_cutting_is_slicing_and_resizing():
    images = torch.randn(3, 3, 40, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    inside = [[3, 5, 20, 33], [0, 0, 40, 40], [7, 7, 8, 9], [30, 2, 39, 12]]
    over = [[-9, -4, 15, 20], [30, 25, 52, 61], [-20, 5, 60, 30], [50, 50, 70, 70]]
    boxes = torch.tensor([inside, over, [*inside[:2], *over[:2]]])
    cuts = crop_and_resize(images, boxes, 24)
    assert cuts.shape == (12, 3, 24, 24)
    for index in range(12):
        expected = reference_cut(images[index // 4], boxes[index // 4, index % 4].tolist(), 24)
        assert torch.allclose(cuts[index], expected, atol=1e-10), boxes[index // 4, index % 4]
    top, left, bottom, right = inside[0]
    sliced = functional.interpolate(
        images[:1, :, top:bottom, left:right], size=(24, 24), mode="bilinear", align_corners=True
    )
    assert torch.allclose(cuts[0], sliced[0], atol=1e-10)
    assert not cuts[7].any()
    whole = crop_and_resize(images, torch.tensor([[[0, 0, 40, 40]]] * 3), 40)
    assert torch.allclose(whole, images, atol=1e-10)


def test_cutting_in_float32_at_the_published_size():
    images = torch.randn(1, 3, 448, 448, generator=torch.Generator().manual_seed(6)).contiguous(
        memory_format=torch.channels_last
    )
    boxes = to_boxes(make_anchors(14, 448))[[0, 195, 700, 1469, 1470, 1613]]
    cuts = crop_and_resize(images, boxes[None], 224)
    assert cuts.is_contiguous(memory_format=torch.channels_last)
    for cut, box in zip(cuts, boxes.tolist(), strict=True):
        assert torch.allclose(cut, reference_cut(images[0], box, 224), atol=1e-3)


# --- net


def reference_forward(net: NtsNet, images: Tensor) -> dict[str, Tensor]:
    """Image by image and part by part, in eval mode."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    side = images.shape[2]
    rows: dict[str, list[Tensor]] = {"embedding": [], "logits": [], "raw_logits": [], "part_logits": [], "scores": []}
    for image in images:
        normalised = (image - mean) / std
        features = net.backbone.trunk(normalised[None])
        whole = features.mean(dim=(2, 3))[0]
        scores = net.navigator(features)[0]
        boxes = [
            [math.floor(y - h / 2), math.floor(x - w / 2), math.floor(y + h / 2), math.floor(x + w / 2)]
            for y, x, h, w in reference_anchors(features.shape[2], side)
        ]
        picks = reference_choice(scores.tolist(), boxes, 6, 0.25)
        vectors = [
            net.backbone.trunk(reference_cut(normalised, boxes[pick], side // 2)[None]).mean(dim=(2, 3))[0]
            for pick in picks
        ]
        rows["embedding"].append(torch.cat([*vectors[:4], whole]))
        rows["logits"].append(net.classifier.weight @ rows["embedding"][-1] + net.classifier.bias)
        rows["raw_logits"].append(net.raw_classifier.weight @ whole + net.raw_classifier.bias)
        rows["part_logits"].append(
            torch.stack([net.part_classifier.weight @ vector + net.part_classifier.bias for vector in vectors])
        )
        rows["scores"].append(scores[picks])
    return {name: torch.stack(values) for name, values in rows.items()}


@pytest.mark.parametrize("side", [64, 96])
def test_the_whole_net_against_a_slow_one(side: int):
    net = tiny().net.eval()
    images = tiny_images(2, side)
    with torch.no_grad():
        outputs, expected = net(images), reference_forward(net, images)
    assert outputs["boxes"].shape == (2, 6, 4)
    assert outputs["part_logits"].shape == (2, 6, CLASSES)
    for name, values in expected.items():
        assert torch.allclose(outputs[name], values, rtol=1e-3, atol=1e-4), name


def test_the_order_of_the_parts_matters():
    net = tiny().net.eval()
    with torch.no_grad():
        embedding = net(tiny_images())["embedding"]
        *parts, whole = embedding.chunk(5, dim=1)
        swapped = torch.cat([parts[1], parts[0], *parts[2:], whole], dim=1)
        assert not torch.allclose(net.classifier(swapped), net.classifier(embedding), atol=1e-3)


def test_five_vectors_of_a_resnet50_are_10240_numbers():
    method = build("nts_net", CLASSES)
    assert method.net.classifier.in_features == 10_240
    assert method.images_forwarded == 2.5
    assert method.min_side == 64
    (stage,) = method.recipe.stages
    assert (stage.epochs, stage.lr, stage.head_lr_factor, stage.momentum, stage.weight_decay) == (
        500,
        1e-3,
        1.0,
        0.9,
        1e-4,
    )
    assert (stage.schedule, stage.milestones, stage.gamma) == ("milestones", (60, 100), 0.1)
    assert (method.recipe.batch_size, method.recipe.resize, method.recipe.crop, method.recipe.eval_view) == (
        16,
        600,
        448,
        "center_crop",
    )


def test_dropout_rests_in_tests_and_works_in_training():
    method = tiny()
    net = method.net
    images = tiny_images()
    with torch.no_grad():
        tested = net.eval()(images)
        again = net(images)
        for name, value in tested.items():
            assert torch.equal(value, again[name]), name
        net.dropout.train()
        trained = net(images)["embedding"]
    kept = trained != 0
    assert torch.allclose(trained[kept], 2 * tested["embedding"][kept], rtol=1e-5)
    dropped = ~kept[tested["embedding"] != 0]
    assert 0.45 < dropped.float().mean() < 0.55
    assert method.net.train().dropout.training


def test_images_and_parts_pass_batch_norm_apart():
    net = tiny().net.train()
    images = tiny_images()
    alone = tiny().net.train()
    with torch.no_grad():
        features = net(images)["features"]
        assert torch.allclose(features, alone.backbone(images), atol=1e-5)
    assert net.backbone.trunk.bn1.num_batches_tracked == 2


def test_under_bfloat16_the_scores_stay_float32():
    method = tiny()
    batch = Batch(tiny_images().contiguous(memory_format=torch.channels_last), torch.arange(3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = method.net.train()(batch.images)
    assert outputs["features"].dtype == torch.bfloat16
    assert outputs["scores"].dtype == torch.float32
    parts = method.losses(outputs, batch)
    sum(total / count for total, count in parts.values()).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in method.net.parameters())


def test_other_numbers_of_parts():
    method = tiny(proposals=3, parts=2)
    outputs = method.net.eval()(tiny_images(1))
    assert outputs["scores"].shape == (1, 3)
    assert outputs["embedding"].shape == (1, 3 * 512)
    assert method.images_forwarded == 1.75


def test_settings_and_images_that_do_not_fit():
    with pytest.raises(UserError, match="4 parts cannot be the best of 3 proposals"):
        tiny(proposals=3)
    with pytest.raises(UserError, match="an image of 64 px has 39 anchors, fewer than 40 proposals"):
        tiny(proposals=40).net.eval()(tiny_images(1))
    with pytest.raises(ValueError, match="square images, not 96 x 64 px"):
        tiny().net.eval()(torch.rand(1, 3, 64, 96))


def test_a_backbone_of_timm_whose_trunk_gives_a_list():
    torch.manual_seed(0)
    net = build("nts_net", CLASSES, backbone="timm:resnet18").net.eval()
    images = tiny_images(1)
    outputs = net(images)
    assert torch.equal(outputs["features"], net.backbone(images))
    assert outputs["logits"].shape == (1, CLASSES)

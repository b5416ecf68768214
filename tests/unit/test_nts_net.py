"""NTS-Net against slow references written here from the paper's description, in loops and float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import nms

from ufgvc.core.errors import UserError
from ufgvc.methods import Batch, Method, build
from ufgvc.methods.layers.anchors import crop_and_resize, level_sides, make_anchors, select_proposals, to_boxes
from ufgvc.methods.nts_net import Navigator, NtsNet, nts_losses, ranking_loss

CLASSES, SIDE = 5, 64


def tiny(seed: int = 0, **options: object) -> Method:
    torch.manual_seed(seed)
    return build("nts_net", CLASSES, backbone="resnet18", **options)


def tiny_images(count: int = 3, side: int = SIDE) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(4))


def reference_anchors(map_side: int, side: int) -> list[tuple[float, float, float, float]]:
    """Centre y, centre x, height, width; level by level, scale by scale, ratio by ratio, row by row."""
    found = []
    cells, stride, unit = map_side, side / map_side, side / 448
    for size, powers in ((48, (1, 2)), (96, (1, 2)), (192, (0, 1, 2))):
        for power in powers:
            for ratio in (0.667, 1.0, 1.5):
                height = size * unit * 2 ** (power / 3) / ratio**0.5
                width = size * unit * 2 ** (power / 3) * ratio**0.5
                for row in range(cells):
                    for column in range(cells):
                        found.append((stride / 2 + row * stride, stride / 2 + column * stride, height, width))
        cells, stride = math.ceil(cells / 2), stride * 2
    return found


def reference_overlap(one: list[int], other: list[int]) -> float:
    height = min(one[2], other[2]) - max(one[0], other[0])
    width = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(height, 0) * max(width, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared)


def reference_choice(scores: list[float], boxes: list[list[int]], count: int, limit: float) -> list[int]:
    """Greedy suppression of one image, then the best of what is left over."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    kept: list[int] = []
    for index in order:
        if len(kept) < count and all(reference_overlap(boxes[index], boxes[earlier]) < limit for earlier in kept):
            kept.append(index)
    return kept + [index for index in order if index not in kept][: count - len(kept)]


def reference_cut(image: Tensor, box: list[int], side: int) -> Tensor:
    """Pad, slice, resize one box of one image (3, H, W)."""
    pad = image.shape[1]
    padded = functional.pad(image, (pad, pad, pad, pad))
    top, left, bottom, right = (corner + pad for corner in box)
    return functional.interpolate(
        padded[None, :, top:bottom, left:right], size=(side, side), mode="bilinear", align_corners=True
    )[0]


# --- anchors


def test_there_are_1614_anchors_at_448_px():
    assert level_sides(14) == (14, 7, 4)
    anchors = make_anchors(14, 448)
    assert anchors.shape == (1614, 4)
    areas = (anchors[:, 2] * anchors[:, 3]).sqrt()
    sizes = [areas[:1176], areas[1176:1470], areas[1470:]]
    for level, base in zip(sizes, (48 * 2 ** (1 / 3), 96 * 2 ** (1 / 3), 192.0), strict=True):
        assert level.min() == pytest.approx(base)
    assert anchors[:, 2:].min() == pytest.approx(49.4, abs=0.05)
    assert anchors[:, 2:].max() == pytest.approx(373, abs=0.5)


def test_the_first_anchor_and_its_neighbours():
    anchors = make_anchors(14, 448)
    assert anchors[0].tolist() == pytest.approx([16, 16, 74.0, 49.4], abs=0.06)
    assert anchors[1, :2].tolist() == [16, 48]
    assert anchors[14, :2].tolist() == [48, 16]
    assert to_boxes(anchors[:1]).tolist() == [
        [-22, -9, 53, 40]
    ]  # 224 + these: the corners 202.97, 215.3, 277.02, 264.7 cut off


@pytest.mark.parametrize(("map_side", "side"), [(14, 448), (12, 384), (5, 160), (2, 64), (7, 100)])
def test_anchors_follow_the_map_and_the_image(map_side: int, side: int):
    expected = torch.tensor(reference_anchors(map_side, side), dtype=torch.float64)
    anchors = make_anchors(map_side, side)
    assert torch.allclose(anchors, expected, rtol=1e-12)
    assert torch.equal(to_boxes(anchors), ((_corners(expected) + side).long() - side))


def _corners(anchors: Tensor) -> Tensor:
    y, x, height, width = anchors.unbind(1)
    return torch.stack([y - height / 2, x - width / 2, y + height / 2, x + width / 2], dim=1)


def test_the_navigator_scores_every_anchor_in_their_order():
    navigator = Navigator(3)
    with torch.no_grad():
        for parameter in navigator.parameters():
            parameter.zero_()
        for level in navigator.levels:
            level.weight[0, 0, 1, 1] = 1.0  # hands on the cell under its middle
        for score in navigator.scores:
            score.weight[:, 0, 0, 0] = torch.arange(1.0, len(score.weight) + 1)
    features = torch.zeros(2, 3, 14, 14)
    features[1, 0, 4, 8] = 1.0
    scores = navigator(features)
    assert scores.shape == (2, 1614)
    assert not scores[0].any()
    anchors = make_anchors(14, 448)
    spoken = scores[1].nonzero().flatten()
    assert scores[1, spoken].tolist() == [*range(1, 7), *range(1, 7), *range(1, 10)]
    # The cell (4, 8) is (2, 4) and (1, 2) on the halved maps; each shape comes once, in the order of the anchors' own
    # first cells.
    places = [(4.5 * 32, 8.5 * 32)] * 6 + [(2.5 * 64, 4.5 * 64)] * 6 + [(1.5 * 128, 2.5 * 128)] * 9
    assert [tuple(place) for place in anchors[spoken, :2].tolist()] == places
    firsts = (
        [shape * 196 for shape in range(6)]
        + [1176 + shape * 49 for shape in range(6)]
        + [1470 + shape * 16 for shape in range(9)]
    )
    assert torch.equal(anchors[spoken, 2:], anchors[firsts, 2:])


def test_the_navigators_levels_are_convolutions_one_after_the_other():
    torch.manual_seed(0)
    navigator = Navigator(8).double()
    features = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    first, second, third = navigator.levels
    one = functional.conv2d(features, first.weight, first.bias, padding=1).clamp(min=0)
    two = functional.conv2d(one, second.weight, second.bias, padding=1, stride=2).clamp(min=0)
    three = functional.conv2d(two, third.weight, third.bias, padding=1, stride=2).clamp(min=0)
    expected = []
    for map_, score in zip((one, two, three), navigator.scores, strict=True):
        weighted = torch.einsum("bchw,kc->bkhw", map_, score.weight[:, :, 0, 0]) + score.bias[:, None, None]
        expected.append(weighted.reshape(2, -1))
    assert torch.allclose(navigator(features), torch.cat(expected, dim=1), rtol=1e-9)
    assert navigator(features).shape[1] == len(make_anchors(5, 160))


# --- choice


@pytest.mark.parametrize(("map_side", "side"), [(14, 448), (3, 96)])
def test_choice_agrees_with_brute_force_and_torchvision(map_side: int, side: int):
    boxes = to_boxes(make_anchors(map_side, side))
    scores = torch.randn(4, len(boxes), generator=torch.Generator().manual_seed(1))
    chosen = select_proposals(scores, boxes, 6, 0.25)
    for image in range(4):
        picks = chosen[image].tolist()
        assert picks == reference_choice(scores[image].tolist(), boxes.tolist(), 6, 0.25)
        # torchvision suppresses above its limit, not at it.
        kept = nms(boxes.float(), scores[image], 0.25 - 1e-7)[:6].tolist()
        assert picks[: len(kept)] == kept
        kept_scores = scores[image, kept]
        assert torch.equal(kept_scores, kept_scores.sort(descending=True).values)
        between = [reference_overlap(boxes[a].tolist(), boxes[b].tolist()) for a in kept for b in kept if a < b]
        assert max(between) < 0.25
        assert len(kept) == 6 or map_side < 14


def test_an_overlap_at_the_limit_is_suppressed():
    boxes = torch.tensor(
        [[0, 0, 1, 5], [0, 3, 1, 8], [0, 5, 1, 10]]
    )  # the first two share 2 of 8 pixels, the last two 3 of 7
    assert select_proposals(torch.tensor([[3.0, 2.0, 1.0]]), boxes, 2, 0.25).tolist() == [[0, 2]]
    assert select_proposals(torch.tensor([[3.0, 2.0, 1.0]]), boxes, 2, 0.2501).tolist() == [[0, 1]]


def test_where_too_few_are_kept_the_next_best_follow():
    boxes = torch.tensor([[0, 0, 9, 9], [0, 0, 9, 8], [0, 0, 8, 9], [20, 20, 29, 29], [20, 20, 29, 28]])
    scores = torch.tensor([[1.0, 5.0, 4.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    # Kept: 1 and 4; the others by their scores. Equal scores: the first of each heap, then from the front.
    assert select_proposals(scores, boxes, 5, 0.25).tolist() == [[1, 4, 2, 3, 0], [0, 3, 1, 2, 4]]
    assert select_proposals(scores, boxes, 3, 0.25).tolist() == [[1, 4, 2], [0, 3, 1]]


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


# --- losses


def test_the_ranking_loss_by_hand():
    scores, grades = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[0.1, 0.5, 0.3]])
    assert ranking_loss(scores, grades).tolist() == [2.0]
    assert ranking_loss(scores, torch.tensor([[0.1, 0.3, 0.5]])).tolist() == [0.0], "in order, each by the margin of 1"
    assert ranking_loss(scores, torch.tensor([[0.3, 0.3, 0.3]])).tolist() == [0.0], "equal parts have no order"


def test_the_ranking_loss_in_loops():
    scores, grades = torch.randn(4, 6, dtype=torch.float64), torch.rand(4, 6, dtype=torch.float64)
    expected = [
        sum(max(0.0, 1 - float(s[i]) + float(s[j])) for i in range(6) for j in range(6) if grade[j] > grade[i])
        for s, grade in zip(scores, grades, strict=True)
    ]
    assert torch.allclose(ranking_loss(scores, grades), torch.tensor(expected, dtype=torch.float64))


def test_all_losses_from_the_outputs():
    generator = torch.Generator().manual_seed(7)
    logits, raw = torch.randn(2, CLASSES, generator=generator), torch.randn(2, CLASSES, generator=generator)
    parts, scores = torch.randn(2, 6, CLASSES, generator=generator), torch.randn(2, 6, generator=generator)
    labels = [3, 1]
    found = nts_losses(
        {"logits": logits, "raw_logits": raw, "part_logits": parts, "scores": scores},
        Batch(torch.zeros(2, 3, 1, 1), torch.tensor(labels)),
    )

    def entropy(values: Tensor, label: int) -> float:
        return math.log(sum(math.exp(value) for value in values.tolist())) - float(values[label])

    grades = [[entropy(part, label) for part in image] for image, label in zip(parts, labels, strict=True)]
    rank = 0.0
    for s, grade in zip(scores.tolist(), grades, strict=True):
        rank += sum(max(0.0, 1 - s[i] + s[j]) for i in range(6) for j in range(6) if grade[j] > grade[i])
    expected = {
        "classification": (sum(entropy(row, label) for row, label in zip(logits, labels, strict=True)), 2),
        "raw": (sum(entropy(row, label) for row, label in zip(raw, labels, strict=True)), 2),
        "parts": (sum(map(sum, grades)), 12),
        "rank": (rank, 2),
    }
    assert set(found) == set(expected)
    for name, (total, count) in expected.items():
        assert float(found[name][0]) == pytest.approx(total, rel=1e-5), name
        assert float(found[name][1]) == count, name
    assert tiny().loss_weights == dict.fromkeys(expected, 1.0)


def test_the_ranking_loss_teaches_the_navigator_only():
    method = tiny()
    batch = Batch(tiny_images(), torch.arange(3))
    parts = method.losses(method.net.train()(batch.images), batch)
    named = dict(method.net.named_parameters())
    grads = torch.autograd.grad(parts["rank"][0], list(named.values()), allow_unused=True, retain_graph=True)
    taught = {name for name, grad in zip(named, grads, strict=True) if grad is not None}
    assert taught == {name for name in named if name.startswith("navigator.")}
    assert all(grad.abs().sum() > 0 for grad in grads if grad is not None)
    others = sum(total for name, (total, _) in parts.items() if name != "rank")
    grads = torch.autograd.grad(others, list(named.values()), allow_unused=True)
    untaught = {name for name, grad in zip(named, grads, strict=True) if grad is None}
    assert untaught == taught


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

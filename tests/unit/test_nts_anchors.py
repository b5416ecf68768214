"""NTS-Net's anchors, their scores by the navigator, and the choice of proposals, against slow references."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import nms

from tests.unit.nts_references import reference_anchors, reference_choice, reference_overlap
from ufgvc.methods.layers.anchors import level_sides, make_anchors, select_proposals, to_boxes
from ufgvc.methods.nts_net import Navigator

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

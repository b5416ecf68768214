"""Masks of generated leaves with known outline, veins and boxes."""

from __future__ import annotations

import numpy as np
import pytest

from ufgvc.core.errors import UserError
from ufgvc.core.region_names import PAPER_REGIONS
from ufgvc.core.types import Box
from ufgvc.data.resize import resize_longest
from ufgvc.regions.detector import letterbox
from ufgvc.regions.masks import MASK_KINDS, find_leaf, make_masks, rasterize_boxes

BOXES = [Box("vein", 90, 30, 110, 170), Box("contour", 20, 20, 90, 180), Box("contour", 110, 20, 180, 180)]


def make_leaf(size: int = 200, background: int = 255, vein: int = 150) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A green disc with one bright vein on a plain ground: image (size, size, 3), leaf and vein (size, size) bool."""
    y, x = np.mgrid[:size, :size] * 200 / size
    leaf = (x - 100) ** 2 + (y - 100) ** 2 < 75**2
    rib = leaf & (abs(x - 100) < 1.5) & (y > 40) & (y < 160)
    image = np.full((size, size, 3), background, np.uint8)
    image[leaf] = (40, 90, 30)
    image[leaf & ((x // 8 + y // 8) % 2 == 0)] = (44, 99, 33)  # a blade is never of one colour
    image[rib] = (vein, vein, vein // 2)
    return image, leaf, rib


def scaled(boxes: list[Box], factor: float) -> list[Box]:
    return [Box(b.region, b.x0 * factor, b.y0 * factor, b.x1 * factor, b.y1 * factor) for b in boxes]


@pytest.mark.parametrize("kind", MASK_KINDS.names())
@pytest.mark.parametrize("size", [200, 1500])  # the second is larger than the masks' working size
def test_every_kind_stays_inside_its_boxes_and_has_the_photographs_size(kind, size):
    image, *_ = make_leaf(size)
    boxes = scaled(BOXES, size / 200)
    masks = make_masks(image, boxes, kind, PAPER_REGIONS)
    for region in ("vein", "contour"):
        inside = rasterize_boxes([b for b in boxes if b.region == region], image.shape)
        assert masks[region].shape == (size, size)
        assert masks[region].dtype == bool
        assert masks[region].any()
        assert not (masks[region] & ~inside).any()


def test_box_mask_is_one_exactly_inside_the_boxes():
    masks = make_masks(make_leaf()[0], BOXES, "box", PAPER_REGIONS)
    assert masks["vein"].sum() == 20 * 140
    assert masks["vein"][30:170, 90:110].all()
    assert masks["contour"].sum() == 2 * 70 * 160


def test_boxes_with_fractions_and_over_the_edge():
    mask = rasterize_boxes([Box("vein", -5, 1.5, 2.2, 2.5)], (4, 4))
    assert mask.tolist() == [[False] * 4, [True, True, True, False], [True, True, True, False], [False] * 4]


@pytest.mark.parametrize("kind", MASK_KINDS.names())
def test_a_region_without_boxes_has_no_mask(kind):
    image, *_ = make_leaf()
    assert make_masks(image, None, kind, PAPER_REGIONS) == {"vein": None, "contour": None}
    assert make_masks(image, [], kind, PAPER_REGIONS) == {"vein": None, "contour": None}
    masks = make_masks(image, BOXES[:1], kind, PAPER_REGIONS)
    assert masks["vein"] is not None
    assert masks["contour"] is None


@pytest.mark.parametrize("background", [255, 0, 130])
def test_the_leaf_is_found_on_any_plain_background(background):
    image, leaf, _ = make_leaf(background=background)
    noisy = np.clip(image + np.random.default_rng(0).normal(0, 3, image.shape), 0, 255).astype(np.uint8)
    found = find_leaf(noisy)
    assert (found & leaf).sum() / (found | leaf).sum() > 0.97


def test_luminance_keeps_the_bright_vein_and_never_the_white_paper():
    image, leaf, rib = make_leaf()
    vein = make_masks(image, BOXES, "luminance", PAPER_REGIONS)["vein"]
    assert (vein & rib).sum() / rib.sum() > 0.95
    assert not (vein & ~rib).any()
    assert not (make_masks(image, BOXES, "luminance", PAPER_REGIONS)["contour"] & ~leaf).any()


@pytest.mark.parametrize("brightness", [200, 8])  # veins lighter and darker than the blade
def test_structure_finds_the_vein(brightness):
    image, _, rib = make_leaf(vein=brightness)
    vein = make_masks(image, BOXES, "structure", PAPER_REGIONS)["vein"]
    inside = rasterize_boxes(BOXES[:1], image.shape)
    wanted = rib & inside
    assert (vein & wanted).sum() / wanted.sum() > 0.85
    assert vein.sum() < 3 * wanted.sum()


def test_structure_finds_a_band_about_the_outline():
    image, *_ = make_leaf()
    band = make_masks(image, BOXES, "structure", PAPER_REGIONS)["contour"]
    y, x = np.nonzero(band)
    assert abs(np.hypot(x - 100, y - 100) - 75).max() < 5
    assert band[100, 20:30].any()


@pytest.mark.parametrize("kind", MASK_KINDS.names())
def test_a_photograph_of_one_colour_is_no_fault(kind):
    masks = make_masks(np.full((200, 200, 3), 90, np.uint8), BOXES, kind, PAPER_REGIONS)
    assert masks["vein"].shape == (200, 200)


def test_an_unknown_kind_lists_the_known_ones():
    with pytest.raises(UserError, match="box, luminance, structure"):
        make_masks(make_leaf()[0], BOXES, "fuzzy", PAPER_REGIONS)


def test_letterbox_can_be_inverted():
    image = np.full((100, 301, 3), 200, np.uint8)
    fitted = letterbox(image, 64)
    square, (sx, sy), (left, top) = fitted.pixels, fitted.scale, fitted.offset
    assert square.shape == (64, 64, 3)
    assert (left, top) == (0, 21)
    assert (square[top : top + round(100 * sy)] == 200).all()
    assert (301 * sx, 100 * sy) == (64, 21)
    assert (square[:top] == 114).all()
    assert resize_longest(image, 301) is image

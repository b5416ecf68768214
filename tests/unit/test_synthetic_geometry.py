"""Synthetic leaves: boxes lie as in the real sets, masks are exactly the veins and the margin."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from tests.factories import only_main_veins, polygon_mask
from ufgvc.synthetic import SynthSettings, generate_leaf, plan_leaf

# Means of (cx, cy, w, h) over the images of the released label files.
COTTON = {
    "left": (0.274, 0.642, 0.324, 0.422),
    "middle": (0.497, 0.545, 0.148, 0.646),
    "right": (0.720, 0.636, 0.314, 0.424),
}


SOY = {
    False: [(0.552, 0.495, 0.769, 0.053), (0.587, 0.417, 0.625, 0.098), (0.572, 0.586, 0.655, 0.120)],
    True: [(0.502, 0.602, 0.061, 0.635), (0.425, 0.593, 0.085, 0.598), (0.579, 0.612, 0.086, 0.567)],
}
TOLERANCE = 0.045


def test_cotton_boxes_lie_as_in_the_real_set(monkeypatch: pytest.MonkeyPatch) -> None:
    only_main_veins(monkeypatch)
    plans = [plan_leaf(SynthSettings(), 0, cultivar, k) for cultivar in range(1, 41) for k in (1, 2)]
    boxes = np.array([sorted(plan.boxes, key=lambda box: box[1]) for plan in plans])
    assert (boxes[..., 0] == 0).all()
    for index, name in enumerate(("left", "middle", "right")):
        assert boxes[:, index, 1:].mean(0) == pytest.approx(COTTON[name], abs=TOLERANCE), name
    narrowest = boxes[..., 3].argmin(1)
    assert (narrowest == 1).mean() > 0.95


def test_soy_boxes_lie_as_in_the_real_set(monkeypatch: pytest.MonkeyPatch) -> None:
    only_main_veins(monkeypatch)
    settings = SynthSettings(preset="soylocal200")
    plans = [plan_leaf(settings, 0, cultivar, k) for cultivar in range(1, 101) for k in (1, 2)]
    upright = np.array([plan.scene.upright for plan in plans])
    assert 0.70 < 1 - upright.mean() < 0.90
    for up in (False, True):
        rows = []
        for plan in (p for p in plans if p.scene.upright == up):
            sides = sorted((box for box in plan.boxes if box[0] == 1), key=lambda box: box[1] if up else box[2])
            rows.append([*[box for box in plan.boxes if box[0] == 0], *sides])
        boxes = np.array(rows)
        assert boxes.shape[1] == 3
        for index in range(3):
            assert boxes[:, index, 1:].mean(0) == pytest.approx(SOY[up][index], abs=TOLERANCE), (up, index)


@pytest.mark.parametrize("preset", ["cotton80", "soylocal200"])
def test_masks_are_the_veins_and_the_margin(preset: str) -> None:
    settings = SynthSettings(preset=preset)
    for cultivar in (1, 2):
        plan = plan_leaf(settings, 1, cultivar, 2)
        picture = generate_leaf(settings, 1, cultivar, 2).picture
        blade = polygon_mask(plan.pose(plan.blade.outline), settings.size)
        assert not (picture.vein & ~ndimage.binary_dilation(blade, iterations=2)).any()
        near_margin = ndimage.binary_dilation(blade, iterations=3) & ~ndimage.binary_erosion(blade, iterations=3)
        column, row = plan.pose(np.zeros((1, 2)))[0]
        rows, columns = np.mgrid[: settings.size, : settings.size]
        off_base = np.hypot(rows - row, columns - column) > 8  # there both margins meet in a slit thinner than a pixel
        assert not (picture.contour & ~near_margin & off_base).any()
        assert 0.05 < picture.vein.sum() / blade.sum() < 0.45
        assert {vein.order for vein in plan.veins} == {1, 2, 3}
        widths = [w for vein in plan.veins for w in vein.width]
        assert 0.5 < min(widths) < max(widths) < 5
        pixels = picture.image.astype(float)
        away = blade & ~ndimage.binary_dilation(picture.vein, iterations=1)
        assert pixels[picture.vein].mean() > pixels[away].mean(), "veins are paler than the blade"
        assert abs(pixels[blade].mean() - pixels[~ndimage.binary_dilation(blade, iterations=25)].mean()) > 25


@pytest.mark.parametrize("preset", ["cotton80", "soylocal200"])
def test_boxes_and_scene_do_not_depend_on_further_veins(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SynthSettings(preset=preset)
    whole = [plan_leaf(settings, 0, cultivar, 1) for cultivar in (1, 2)]
    only_main_veins(monkeypatch)
    for plan, cultivar in zip(whole, (1, 2), strict=True):
        bare = plan_leaf(settings, 0, cultivar, 1)
        assert len(bare.veins) < len(plan.veins)
        assert bare.boxes == plan.boxes
        assert bare.scene == plan.scene

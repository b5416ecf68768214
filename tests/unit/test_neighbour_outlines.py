"""The picture of nearest leaves shows outlines and mean colours, and no pixel of a photograph."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from tests.neighbour_outlines import draw_leaf


def test_a_leaf_is_an_outline_with_its_hole_in_one_colour() -> None:
    image = np.full((120, 120, 3), 255, np.uint8)
    image[20:100, 20:100] = (60, 120, 20)
    image[20:100:2, 20:100] = (80, 140, 40)  # texture
    image[50:70, 50:70] = 255
    axes = Figure().subplots()
    draw_leaf(axes, image)
    leaf, hole = sorted((patch for patch in axes.patches if isinstance(patch, Polygon)), key=lambda one: -len_of(one))
    assert np.allclose(leaf.get_facecolor()[:3], np.array([70, 130, 30]) / 255, atol=0.01)
    assert hole.get_facecolor()[:3] == (1, 1, 1)
    assert list(axes.images) == []


def len_of(patch: Polygon) -> float:
    """The width of a polygon."""
    return float(np.ptp(patch.get_xy()[:, 0]))

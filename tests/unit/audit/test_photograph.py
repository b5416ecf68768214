"""What is measured on a photograph: leaf, surroundings and file, and that none of them sees the others."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from tests.unit.audit.clusters import clusters, made_leaves
from ufgvc.evaluation.audit.flags import MAX_BLUR, MAX_ON_FRAME, NAMES, flag_photographs
from ufgvc.evaluation.audit.photograph import BACKGROUND, COLOUR, FILE, Photograph, measure

GREEN, SIDE = (60, 120, 40), 200
Box = tuple[int, int, int, int]
OVAL: Box = (50, 30, 150, 170)


def picture(*ovals: Box, paper: tuple[int, int, int] = (250, 250, 250), leaf: tuple[int, ...] = GREEN) -> Image.Image:
    """Ovals with dark stripes, as veins, on paper."""
    image = Image.new("RGB", (SIDE, SIDE), paper)
    draw = ImageDraw.Draw(image)
    for oval in ovals:
        draw.ellipse(oval, fill=leaf)
        for row in range(oval[1] + 30, oval[3] - 30, 8):
            draw.line((oval[0] + 30, row, oval[2] - 30, row + 3), fill=tuple(value // 2 for value in leaf), width=2)
    return image


def measured(image: Image.Image, quality: int = 95) -> Photograph:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return measure(buffer.getvalue(), np.asarray(image))


def test_one_leaf_in_the_middle() -> None:
    found = measured(picture(OVAL))
    area = np.pi * 50 * 70 / SIDE**2
    assert found.facts["area"] == pytest.approx(area, rel=0.03)
    assert (found.facts["parts"], found.facts["on_frame"]) == (1, 0)
    assert found.facts["plain"]
    assert found.facts["contrast"]
    assert (found.facts["width"], found.facts["height"], found.facts["file_type"]) == (SIDE, SIDE, "jpeg")
    assert (len(found.background), len(found.colour), len(found.file)) == (BACKGROUND, COLOUR, FILE)
    with Image.open(io.BytesIO(found.thumbnail)) as thumbnail:
        assert max(thumbnail.size) == 96


def test_two_leaves_and_a_speck() -> None:
    assert measured(picture((20, 40, 80, 160), (120, 40, 180, 160))).facts["parts"] == 2
    assert measured(picture(OVAL, (5, 5, 12, 12))).facts["parts"] == 1


def test_a_leaf_that_the_frame_cuts() -> None:
    share = measured(picture((50, -60, 150, 90))).facts["on_frame"]
    assert share == pytest.approx(np.sqrt(1 - (15 / 75) ** 2) * 100 / (4 * SIDE), rel=0.1)
    assert share > MAX_ON_FRAME


@pytest.mark.parametrize("quality", [30, 60, 75, 92])
def test_the_quality_of_a_jpeg(quality: int) -> None:
    assert measured(picture(OVAL), quality).facts["quality"] == pytest.approx(quality, abs=1)


def test_blur_rises_with_the_blur() -> None:
    values = [measured(picture(OVAL).filter(ImageFilter.GaussianBlur(radius))).facts["blur"] for radius in (0, 1, 3)]
    assert values == sorted(values)
    assert values[0] < MAX_BLUR < values[-1]


def test_light_is_the_leafs_and_not_the_papers() -> None:
    dark, bright = (measured(picture(OVAL, leaf=(value,) * 3)).facts["light"] for value in (20, 200))
    assert dark < 0.1
    assert bright == pytest.approx(0.8, abs=0.02)  # L* of 200 in sRGB is 80.6


def test_the_background_does_not_show_the_leaf() -> None:
    """Another leaf of another colour and outline on the same table: the same features."""
    one, other = measured(picture(OVAL)), measured(picture((20, 80, 180, 120), leaf=(150, 40, 90)))
    assert np.allclose(one.background, other.background, atol=0.05)
    table = measured(picture(OVAL, paper=(235, 240, 250)))
    assert np.abs(one.background - table.background).max() > 2


def test_the_colour_does_not_show_the_background() -> None:
    one, other = measured(picture(OVAL)), measured(picture(OVAL, paper=(200, 210, 250)))
    assert np.allclose(one.colour, other.colour, atol=0.05)
    assert np.abs(one.colour - measured(picture(OVAL, leaf=(150, 40, 90))).colour).max() > 10


def test_no_leaf_and_no_plain_background() -> None:
    empty = measured(picture()).facts
    assert not empty["contrast"]
    assert np.isnan(empty["area"])
    noise = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    field = measured(Image.fromarray(noise)).facts
    assert not field["plain"]
    assert np.isnan(field["parts"])
    assert np.isfinite([field["blur"], field["light"], field["clipped"]]).all()


def test_a_photograph_is_flagged_for_what_is_wrong_with_it() -> None:
    leaves = made_leaves([0, 1] * 6, clusters([0, 1] * 6))
    wrong = {"blur": 0.6, "light": 0.05, "clipped": 0.3, "parts": 2.0, "on_frame": 0.2, "area": 0.01}
    facts = {name: column.copy() for name, column in leaves.facts.items()}
    for row, (name, value) in enumerate(wrong.items()):
        facts[name][row] = value
    facts["light"][6], facts["contrast"][7] = 0.95, False
    unlike = np.arange(12) == 8
    flags = flag_photographs(replace(leaves, facts=facts), unlike)
    assert all(len(flags[row]) == 1 for row in range(9))
    assert sorted(flag for row in flags for flag in row) == sorted(NAMES)
    assert flags[9:] == [[], [], []]

"""Duplicate images are found, and different leaves are not taken for duplicates."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.factories import pixels
from ufgvc.data.duplicates import ImageSignatures, find_duplicates
from ufgvc.data.images import inspect_with_thumbnail


def saved(picture: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def leaf(seed: int, width: int = 240, height: int = 180) -> Image.Image:
    """Blotches on white."""
    blotches = Image.fromarray(pixels(seed, 6, 8)).resize((width, height), Image.Resampling.BICUBIC)
    sheet = Image.new("RGB", (width, height), "white")
    sheet.paste(blotches.resize((width // 2, height // 2)), (width // 4, height // 5))
    return sheet


def found(photographs: list[bytes]) -> list[list[int]]:
    signatures = ImageSignatures.from_thumbnails([inspect_with_thumbnail(photograph)[1] for photograph in photographs])
    return find_duplicates(signatures, [str(k) for k in range(len(photographs))])


def with_orientation(picture: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(picture, exif=exif)


@pytest.mark.parametrize(
    "copy",
    [
        pytest.param(lambda p: saved(p, quality=40), id="saved again"),
        pytest.param(lambda p: saved(p, "PNG"), id="png"),
        pytest.param(lambda p: saved(p.resize((120, 90), Image.Resampling.LANCZOS)), id="half"),
        pytest.param(lambda p: saved(p.resize((333, 250), Image.Resampling.BICUBIC)), id="larger"),
        pytest.param(lambda p: saved(p.resize((100, 100), Image.Resampling.BILINEAR)), id="squeezed"),
        pytest.param(lambda p: with_orientation(p.transpose(Image.Transpose.ROTATE_90), 6), id="rotated by EXIF"),
        *(pytest.param(lambda p, way=way: saved(p.transpose(way)), id=way.name.lower()) for way in Image.Transpose),
    ],
)
def test_copies_are_found(copy: Callable[[Image.Image], bytes]) -> None:
    photographs = [saved(leaf(k)) for k in range(6)]
    assert found([*photographs, copy(leaf(3))]) == [[3, 6]]


def test_other_exif_only() -> None:
    exif = Image.Exif()
    exif[0x4746] = 4
    assert found([saved(leaf(0)), saved(leaf(1)), saved(leaf(0), exif=exif)]) == [[0, 2]]


def test_equal_files_are_duplicates_whatever_they_look_like() -> None:
    signatures = ImageSignatures.from_thumbnails([np.full((64, 64, 3), 9, np.uint8)] * 3)
    assert find_duplicates(signatures, ["a", "b", "a"]) == [[0, 2]]


def test_plain_surfaces_and_nothing() -> None:
    assert found([saved(Image.new("RGB", (64, 64), shade)) for shade in ("white", "white", "black")]) == []
    assert find_duplicates(ImageSignatures.from_thumbnails([]), []) == []


def test_leaves_that_differ_in_colour_only_are_two() -> None:
    red, green, blue = leaf(7).split()
    assert found([saved(leaf(7)), saved(Image.merge("RGB", (blue, green, red)))]) == []


def test_three_copies_are_one_group() -> None:
    assert found([saved(leaf(5), quality=q) for q in (95, 60, 30)] + [saved(leaf(6))]) == [[0, 1, 2]]


def test_many_photographs_are_compared_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ufgvc.data.duplicates._BLOCK", 7)
    rng = np.random.default_rng(0)
    thumbnails = list(rng.integers(0, 256, (40, 64, 64, 3), dtype=np.uint8))
    thumbnails[31], thumbnails[2] = thumbnails[3][:, ::-1], thumbnails[38].swapaxes(0, 1)
    assert find_duplicates(ImageSignatures.from_thumbnails(thumbnails), list(map(str, range(40)))) == [[2, 38], [3, 31]]


@pytest.mark.parametrize("name", ["grape5", "grape29"])
def test_real_leaves_on_white_are_all_different(shared_data: Path, name: str) -> None:
    assert found([path.read_bytes() for path in sorted((shared_data / name / "images").glob("*.jpg"))]) == []

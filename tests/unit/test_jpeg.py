"""JPEG decoded by libjpeg-turbo directly, and photographs resized by torch: Pillow's pixels, and Pillow's judgement."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import profiles
from tests.factories import pixels
from ufgvc.data import jpeg
from ufgvc.data.images import BadImage, decode, decode_photograph, inspect
from ufgvc.data.jpeg import decode_jpeg
from ufgvc.data.resize import resize_square


def saved(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def by_pillow(image: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))


def smooth(height: int, width: int) -> Image.Image:
    """Colours that change slowly, with some noise: of each photograph's kind of pixels."""
    rows, columns = np.mgrid[:height, :width]
    waves = np.stack([np.sin(rows / 9), np.cos(columns / 7), np.sin((rows + columns) / 23)], axis=2)
    noise = np.random.default_rng(0).normal(0, 6, (height, width, 3))
    return Image.fromarray(np.clip(127 + 100 * waves + noise, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("quality", [30, 90, 100])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_the_pixels_are_those_of_pillow(quality: int, subsampling: int, progressive: bool) -> None:
    image = saved(smooth(101, 67), quality=quality, subsampling=subsampling, progressive=progressive)
    found = decode_jpeg(image)
    assert found is not None
    assert np.array_equal(found, by_pillow(image))
    assert np.array_equal(decode(image), found)


def test_grey_pictures_and_markers_between_rows() -> None:
    for picture, options in ((smooth(64, 48).convert("L"), {}), (smooth(64, 48), {"restart_marker_rows": 1})):
        image = saved(picture, **options)
        found = decode_jpeg(image)
        assert found is not None
        assert np.array_equal(found, by_pillow(image))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = saved(smooth(40, 60), exif=exif)
    info = inspect(image)
    found = decode_photograph(image)
    assert found.shape == (info.height, info.width, 3)
    assert np.array_equal(found, decode(image, info.orientation))


@pytest.mark.parametrize("kind", ["CMYK", "wide colours"])
def test_other_colours_are_left_to_pillow(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = smooth(40, 60)
    wide = {"icc_profile": profiles.rgb_profile(profiles.DISPLAY_P3)}
    image = saved(picture.convert("CMYK")) if kind == "CMYK" else saved(picture, **wide)
    monkeypatch.setattr("ufgvc.data.images.decode_jpeg", lambda image: pytest.fail("it was decoded without Pillow"))
    found = decode_photograph(image)
    assert np.array_equal(found, decode(image))
    assert (kind == "CMYK") == np.array_equal(found, by_pillow(image)), "wide colours are converted to sRGB"


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("read", [decode, decode_photograph, inspect])
def test_a_file_that_ends_early_is_truncated(keep: float, read: object) -> None:
    image = saved(smooth(101, 67))
    cut = image[: int(len(image) * keep)]
    assert decode_jpeg(cut) is None
    with pytest.raises(BadImage, match="truncated"):
        read(cut)  # type: ignore[operator]


def test_whatever_is_damaged_is_judged_as_pillow_does(monkeypatch: pytest.MonkeyPatch) -> None:
    image = saved(smooth(101, 67))
    random = np.random.default_rng(3)

    def judge(damaged: bytes) -> object:
        try:
            return decode_photograph(damaged).tobytes()
        except BadImage as error:
            return error.reason

    cases = []
    for _ in range(60):
        damaged = bytearray(image)
        for at in random.integers(2, len(image), 3):
            damaged[at] = int(random.integers(0, 256))
        cases.append(bytes(damaged))
    found = [judge(case) for case in cases]
    monkeypatch.setattr(jpeg, "simplejpeg", None)
    assert decode_jpeg(image) is None
    wanted = [judge(case) for case in cases]
    assert any(isinstance(each, str) for each in wanted)
    assert any(isinstance(each, bytes) for each in wanted)
    assert found == wanted


def test_a_small_photograph_is_refused_as_by_inspect() -> None:
    image = saved(smooth(31, 60))
    for read in (decode_photograph, inspect):
        with pytest.raises(BadImage, match="too small: 60 x 31 pixels"):
            read(image)


def differences(image: np.ndarray, side: int) -> np.ndarray:
    wanted = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))
    return np.abs(resize_square(image, side).astype(int) - wanted)


@pytest.mark.parametrize(("height", "width", "side"), [(640, 640, 512), (300, 200, 96), (60, 40, 128), (97, 97, 96)])
def test_resized_pixels_are_within_a_level_of_pillows(height: int, width: int, side: int) -> None:
    for image in (np.asarray(smooth(height, width)), pixels(0, height, width)):
        off = differences(image, side)
        assert off.max() <= 2
        assert (off > 1).mean() <= 1e-4


def test_an_array_that_may_not_be_written_stays_as_it_is() -> None:
    image = np.asarray(smooth(60, 40))
    image.setflags(write=False)
    before = image.copy()
    resize_square(image, 32)[:] = 0
    assert np.array_equal(image, before)
    assert resize_square(image[:40], 40) is not None


def test_real_leaves(shared_data: Path) -> None:
    """Published photographs: the pixels are Pillow's, and all but one in ten thousand are resized within a level."""
    for path in sorted(shared_data.rglob("*.jp*g"))[::40]:
        image = path.read_bytes()
        found, plain = decode_jpeg(image), by_pillow(image)
        if found is not None:
            assert np.array_equal(found, plain), path
        off = differences(np.array(plain), 512)
        assert off.max() <= 2
        assert (off > 1).mean() <= 1e-4

"""Decoding and storing images in colour spaces other than sRGB."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from tests import profiles
from tests.factories import encoded, pixels
from ufgvc.data.images import decode, inspect, strip_metadata

P3 = profiles.rgb_profile(profiles.DISPLAY_P3)
ADOBE = profiles.rgb_profile(profiles.ADOBE_RGB, profiles.gamma_curve(2.19921875))
PROPHOTO = profiles.rgb_profile(profiles.PROPHOTO, profiles.gamma_curve(1.8), profiles.D50)
SMOOTH = np.asarray(Image.fromarray(pixels(1, 6, 8)).resize((96, 64), Image.Resampling.BICUBIC))  # JPEG keeps it nearly


def saved(picture: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, kind, **options)
    return buffer.getvalue()


def far(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b).max())


@pytest.mark.parametrize(
    ("profile", "primaries", "gamma"),
    [(P3, profiles.DISPLAY_P3, None), (ADOBE, profiles.ADOBE_RGB, 2.19921875)],
    ids=["P3", "Adobe"],
)
def test_wide_colours_become_srgb(
    profile: bytes, primaries: tuple[tuple[float, float], ...], gamma: float | None
) -> None:
    given = pixels(1)
    shown = decode(saved(given, "PNG", icc_profile=profile))
    assert far(shown, profiles.expected_srgb(given, primaries, gamma)) < 2
    assert far(shown, given) > 20


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("profile", [P3, ADOBE, PROPHOTO], ids=["P3", "Adobe", "ProPhoto"])
def test_a_lossless_source_is_stored_exactly(kind: str, profile: bytes) -> None:
    photo = saved(pixels(2), kind, icc_profile=profile, **({"lossless": True} if kind == "WEBP" else {}))
    stored = strip_metadata(photo)
    assert stored[1:4] == b"PNG"
    np.testing.assert_array_equal(decode(stored), decode(photo))
    assert far(decode(stored), pixels(2)) > 20


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_lossy_source_is_stored_as_a_fine_jpeg(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "SecretCamera"
    photo = saved(SMOOTH, kind, quality=95, icc_profile=P3, exif=exif)
    info, stored = inspect(photo), strip_metadata(photo)
    assert stored[:3] == b"\xff\xd8\xff"
    assert b"SecretCamera" not in stored
    assert P3[300:340] not in stored
    with Image.open(io.BytesIO(stored)) as picture:
        assert picture.layer[0][1:3] == (1, 1), "colours are not subsampled"
        assert "icc_profile" not in picture.info
    again = decode(stored, info.orientation)
    assert again.shape == (info.height, info.width, 3)
    assert np.abs(again.astype(int) - decode(photo, info.orientation)).mean() < 1.5


@pytest.mark.parametrize(
    "profile", [profiles.rgb_profile(profiles.SRGB), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()]
)
def test_a_profile_that_is_srgb_by_content_changes_no_byte(profile: bytes) -> None:
    for kind in ("JPEG", "PNG", "WEBP"):
        plain, tagged = saved(pixels(3), kind), saved(pixels(3), kind, icc_profile=profile)
        assert decode(tagged).tobytes() == decode(plain).tobytes()
        np.testing.assert_array_equal(decode(strip_metadata(tagged)), decode(plain))
    assert strip_metadata(saved(pixels(3), "JPEG", icc_profile=profile)) == strip_metadata(saved(pixels(3), "JPEG"))


@pytest.mark.parametrize(
    "damage", [b"profile" * 99, b"", P3[:100], P3[:200], P3[:36] + b"XXXX" + P3[40:], P3[:-40]], ids=range(6)
)
def test_a_damaged_profile_counts_as_none(damage: bytes) -> None:
    photo = saved(pixels(4), "JPEG", icc_profile=damage)
    np.testing.assert_array_equal(decode(photo), decode(saved(pixels(4), "JPEG")))
    assert strip_metadata(photo) == strip_metadata(saved(pixels(4), "JPEG"))


def test_damage_anywhere_in_a_profile_is_never_an_error() -> None:
    rng = np.random.default_rng(0)
    for source in (P3, profiles.cmyk_profile(), profiles.grey_profile(1.0)):
        for _ in range(60):
            broken = np.frombuffer(source, np.uint8).copy()
            broken[rng.integers(0, len(broken), 6)] = rng.integers(0, 256, 6)
            for mode in ("RGB", "L", "CMYK"):
                photo = saved(Image.fromarray(pixels(5)).convert(mode), "JPEG", icc_profile=broken.tobytes())
                assert decode(strip_metadata(photo)).shape == (40, 60, 3)


def test_cmyk_with_a_profile_has_the_colours_of_its_printer() -> None:
    inks = Image.new("CMYK", (64, 64))
    inks.paste((255, 0, 0, 0), (0, 0, 32, 64))
    photo = saved(inks, "TIFF", icc_profile=profiles.cmyk_profile())
    shown = decode(photo)
    assert shown[5, 60].min() >= 254, "paper"
    red, green, blue = shown[5, 5].astype(int)
    assert blue > green + 20 > red + 20, "its cyan is blue"
    np.testing.assert_array_equal(decode(strip_metadata(photo)), shown)
    plain = decode(saved(inks, "TIFF"))
    assert plain[5, 5].tolist() == [0, 255, 255], "without a profile cyan is taken for what it is called"
    jpeg = saved(inks, "JPEG", icc_profile=profiles.cmyk_profile(), quality=95)
    assert far(decode(strip_metadata(jpeg))[5, 5], shown[5, 5]) < 12


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_grey_with_a_profile(kind: str) -> None:
    ramp = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None], 64, axis=0)
    shown = decode(saved(ramp, kind, icc_profile=profiles.grey_profile(1.0)))
    linear = ramp[0] / 255
    expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert far(shown[30, 2:-2, 1], expected[2:-2]) < (2 if kind != "JPEG" else 14)
    assert (shown.max(axis=2) == shown.min(axis=2)).all()


def test_sixteen_grey_bits_with_a_profile() -> None:
    wide = np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)
    shown = decode(saved(wide, "TIFF", icc_profile=profiles.grey_profile(1.0)))
    assert shown[20, 30, 0] > (wide[20, 30] >> 8) + 40


def test_a_profile_for_other_pixels_counts_as_none() -> None:
    for mode, profile in (
        ("RGB", profiles.grey_profile(1.0)),
        ("RGB", profiles.cmyk_profile()),
        ("CMYK", P3),
        ("L", profiles.cmyk_profile()),
    ):
        picture = Image.fromarray(pixels(6)).convert(mode)
        np.testing.assert_array_equal(
            decode(saved(picture, "JPEG", icc_profile=profile)), decode(saved(picture, "JPEG"))
        )


def test_transparent_pixels_of_wide_colours_lie_on_white() -> None:
    rgba = np.dstack([pixels(7), np.full((40, 60), 255, np.uint8)])
    rgba[:, :10, 3] = 0
    shown = decode(saved(rgba, "PNG", icc_profile=P3))
    assert (shown[:, :10] == 255).all()
    assert far(shown[:, 10:], profiles.expected_srgb(rgba[:, 10:, :3], profiles.DISPLAY_P3)) < 2


def test_palette_with_wide_colours() -> None:
    picture = Image.fromarray(pixels(8)).quantize(16)
    photo = saved(picture, "PNG", icc_profile=P3)
    assert far(decode(photo), profiles.expected_srgb(np.asarray(picture.convert("RGB")), profiles.DISPLAY_P3)) < 2
    np.testing.assert_array_equal(decode(strip_metadata(photo)), decode(photo))


def test_lab_is_converted() -> None:
    photo = saved(Image.new("LAB", (64, 64), (255, 128, 128)), "TIFF")
    assert decode(photo).min() >= 253
    np.testing.assert_array_equal(decode(strip_metadata(photo)), decode(photo))
    assert inspect(photo).width == 64


def test_plain_photographs_need_no_conversion() -> None:
    for kind in ("JPEG", "PNG"):
        np.testing.assert_array_equal(decode(encoded(9, kind)), np.asarray(Image.open(io.BytesIO(encoded(9, kind)))))

"""Decoding, orientation and removal of metadata."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.factories import encoded, pixels
from ufgvc.data.images import BadImage, decode, inspect, strip_metadata

KINDS = ("JPEG", "PNG", "WEBP", "TIFF")


def exif(orientation: int = 1) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112], tags[0x010F] = orientation, "SecretCamera"
    tags.get_ifd(0x8825).update({1: "N", 2: (48.0, 12.0, 34.0), 3: "E", 4: (16.0, 21.0, 9.0)})
    return tags


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_pixels_survive_and_metadata_does_not(kind: str, orientation: int) -> None:
    lossless = {"lossless": True} if kind == "WEBP" else {}
    photo = encoded("leaf", kind, exif=exif(orientation), **lossless)
    with Image.open(io.BytesIO(photo)) as picture:
        assert kind == "TIFF" or picture.getexif().get_ifd(0x8825), "the test's photograph has a place"
        upright = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))

    info, stored = inspect(photo), strip_metadata(photo)

    assert (info.height, info.width) == upright.shape[:2]
    assert info.orientation == (1 if kind == "TIFF" else orientation)
    np.testing.assert_array_equal(decode(stored, info.orientation), upright)
    np.testing.assert_array_equal(decode(photo, info.orientation), upright)
    assert b"SecretCamera" in photo
    assert b"SecretCamera" not in stored
    with Image.open(io.BytesIO(stored)) as picture:
        assert not dict(picture.getexif()), "GPS and the rest are gone"
        assert not picture.getexif().get_ifd(0x8825)


@pytest.mark.parametrize(
    "options", [{"progressive": True}, {"restart_marker_rows": 1}, {"subsampling": 2, "quality": 50}]
)
def test_jpeg_is_not_encoded_again(options: dict[str, object]) -> None:
    photo = encoded(1, exif=exif(), comment=b"Owner", icc_profile=b"profile" * 99, **options)
    stored = strip_metadata(photo)
    np.testing.assert_array_equal(decode(stored), decode(photo))
    scans = photo[photo.index(b"\xff\xda") :]
    assert stored.endswith(scans), "the compressed pixels are the same bytes"
    assert b"Owner" not in stored
    assert b"profile" not in stored


def test_what_follows_the_end_of_a_jpeg_is_cut() -> None:
    photo = encoded()
    assert strip_metadata(photo + b"motion photo with a place") == strip_metadata(photo)


def test_cmyk_jpeg_keeps_its_colours() -> None:
    buffer = io.BytesIO()
    Image.fromarray(pixels(2)).convert("CMYK").save(buffer, "JPEG", quality=95)
    np.testing.assert_array_equal(decode(strip_metadata(buffer.getvalue())), decode(buffer.getvalue()))


def test_transparent_pixels_lie_on_white() -> None:
    rgba = np.dstack([pixels(3), np.zeros((40, 60), np.uint8)])
    rgba[10:20, 10:20, 3] = 255
    buffer = io.BytesIO()
    Image.fromarray(rgba).save(buffer, "PNG")
    shown = decode(strip_metadata(buffer.getvalue()))
    assert (shown[0] == 255).all()
    np.testing.assert_array_equal(shown[10:20, 10:20], rgba[10:20, 10:20, :3])


def test_palette_with_transparency_lies_on_white() -> None:
    buffer = io.BytesIO()
    picture = Image.new("P", (40, 40), 0)
    picture.putpalette([255, 0, 0, 0, 255, 0])
    picture.paste(1, (0, 0, 20, 40))
    picture.save(buffer, "PNG", transparency=0)
    shown = decode(strip_metadata(buffer.getvalue()))
    assert shown[0, 39].tolist() == [255, 255, 255]
    assert shown[0, 0].tolist() == [0, 255, 0]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_become_eight(kind: str) -> None:
    wide = np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(wide).save(buffer, kind)
    shown = decode(strip_metadata(buffer.getvalue()))
    assert shown.shape == (40, 60, 3)
    np.testing.assert_array_equal(shown[..., 1], (wide >> 8).astype(np.uint8))


def test_greyscale_becomes_rgb() -> None:
    buffer = io.BytesIO()
    Image.fromarray(pixels(4)[..., 0]).save(buffer, "PNG")
    np.testing.assert_array_equal(decode(buffer.getvalue()), np.repeat(pixels(4)[..., :1], 3, axis=2))


def test_an_animation_becomes_its_first_picture() -> None:
    buffer = io.BytesIO()
    first, second = Image.fromarray(pixels(5)), Image.fromarray(pixels(6))
    first.save(buffer, "WEBP", save_all=True, append_images=[second], lossless=True)
    np.testing.assert_array_equal(decode(strip_metadata(buffer.getvalue())), pixels(5))


def test_every_cut_of_a_file_is_refused_with_a_reason() -> None:
    for kind in KINDS:
        photo = encoded(7, kind)
        for share in (0.1, 0.5, 0.9):
            with pytest.raises(BadImage) as caught:
                inspect(photo[: int(len(photo) * share)])
            assert caught.value.reason, kind


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_bytes_never_raise_anything_else() -> None:
    rng = np.random.default_rng(0)
    for kind in KINDS:
        photo = np.frombuffer(encoded(8, kind, exif=exif()), np.uint8)
        for _ in range(60):
            broken = photo.copy()
            broken[rng.integers(0, len(broken), 8)] = rng.integers(0, 256, 8)
            with contextlib.suppress(BadImage):
                info = inspect(broken.tobytes())
                shown = decode(strip_metadata(broken.tobytes()), info.orientation)
                assert shown.shape == (info.height, info.width, 3)


def test_a_png_damaged_in_its_pixels_is_refused() -> None:
    photo = bytearray(encoded(8, "PNG"))
    photo[len(photo) // 2] ^= 0x55
    with pytest.raises(BadImage):
        inspect(bytes(photo))

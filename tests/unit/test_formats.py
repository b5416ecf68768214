"""Image formats besides JPEG, PNG, WebP and TIFF: HEIC, AVIF, BMP, GIF, MPO, and those that are refused."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from tests.factories import encoded, pixels
from ufgvc.data.images import BadImage, decode, inspect, inspect_with_thumbnail, strip_metadata

SMOOTH = np.asarray(Image.fromarray(pixels(1, 6, 8)).resize((96, 64), Image.Resampling.BICUBIC))


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112], tags[0x010F] = orientation, "SecretCamera"
    return tags.tobytes()


def heic(picture: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(picture)).save(buffer, quality=95, chroma=444, **options)
    return buffer.getvalue()


def turned(picture: np.ndarray, orientation: int) -> np.ndarray:
    ways = {
        1: lambda a: a,
        3: lambda a: a[::-1, ::-1],
        6: lambda a: np.rot90(a, -1),
        8: lambda a: np.rot90(a, 1),
        2: lambda a: a[:, ::-1],
    }
    return ways[orientation](picture)


def mean_difference(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(int) - b).mean())


@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8])
def test_heic_is_set_upright_once(orientation: int) -> None:
    """Both the file's own turn (irot) and its EXIF speak of the same turn."""
    photo = heic(SMOOTH, exif=exif(orientation))
    info, stored = inspect(photo), strip_metadata(photo)
    upright = turned(SMOOTH, orientation)
    assert (info.height, info.width, info.orientation) == (*upright.shape[:2], 1)
    assert mean_difference(decode(photo, info.orientation), upright) < 3
    assert mean_difference(decode(stored, info.orientation), upright) < 4
    assert stored[:3] == b"\xff\xd8\xff"
    assert b"SecretCamera" in photo
    assert b"SecretCamera" not in stored


@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8])
def test_avif_is_set_upright_once(orientation: int) -> None:
    buffer = io.BytesIO()
    Image.fromarray(SMOOTH).save(buffer, "AVIF", quality=95, subsampling="4:4:4", exif=exif(orientation))
    photo = buffer.getvalue()
    info, stored = inspect(photo), strip_metadata(photo)
    upright = turned(SMOOTH, orientation)
    assert (info.height, info.width) == upright.shape[:2]
    assert mean_difference(decode(photo, info.orientation), upright) < 3
    assert mean_difference(decode(stored, info.orientation), upright) < 4
    assert b"SecretCamera" not in stored


def test_heic_of_ten_bits() -> None:
    wide = (SMOOTH.astype(np.uint16) << 8) | SMOOTH
    buffer = io.BytesIO()
    pillow_heif.from_bytes("RGB;16", (96, 64), wide.tobytes()).save(buffer, quality=95, chroma=444)
    assert pillow_heif.open_heif(io.BytesIO(buffer.getvalue()), convert_hdr_to_8bit=False).info["bit_depth"] == 10
    assert mean_difference(decode(buffer.getvalue()), SMOOTH) < 4


def test_transparent_pixels_of_heic_lie_on_white() -> None:
    alpha = np.full(SMOOTH.shape[:2], 255, np.uint8)
    alpha[:, :48] = 0
    photo = heic(np.dstack([SMOOTH, alpha]))
    for image in (photo, strip_metadata(photo)):
        shown = decode(image)
        assert shown[:, :40].min() > 250
        assert mean_difference(shown[:, 56:], SMOOTH[:, 56:]) < 4


def test_of_several_pictures_in_a_heic_the_primary_one_is_read() -> None:
    file = pillow_heif.from_pillow(Image.fromarray(255 - SMOOTH))
    file.add_from_pillow(Image.fromarray(SMOOTH))
    buffer = io.BytesIO()
    file.save(buffer, quality=95, chroma=444, primary_index=1)
    assert mean_difference(decode(buffer.getvalue()), SMOOTH) < 3


def test_heic_with_the_colours_of_a_phone() -> None:
    from tests.profiles import DISPLAY_P3, expected_srgb, rgb_profile

    picture = Image.fromarray(SMOOTH)
    buffer = io.BytesIO()
    pillow_heif.from_pillow(picture).save(buffer, quality=95, chroma=444, icc_profile=rgb_profile(DISPLAY_P3))
    assert mean_difference(decode(buffer.getvalue()), expected_srgb(SMOOTH, DISPLAY_P3).astype(np.uint8)) < 4


@pytest.mark.parametrize("kind", ["BMP", "GIF"])
def test_lossless_kinds_are_stored_as_png(kind: str) -> None:
    picture = Image.fromarray(pixels(2)).quantize(64) if kind == "GIF" else Image.fromarray(pixels(2))
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    photo = buffer.getvalue()
    np.testing.assert_array_equal(decode(photo), np.asarray(picture.convert("RGB")))
    stored = strip_metadata(photo)
    assert stored[1:4] == b"PNG"
    np.testing.assert_array_equal(decode(stored), decode(photo))


def test_of_a_moving_gif_the_first_picture_is_read() -> None:
    first, second = (Image.fromarray(pixels(seed)).quantize(64) for seed in (3, 4))
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=[second])
    np.testing.assert_array_equal(decode(strip_metadata(buffer.getvalue())), np.asarray(first.convert("RGB")))


def test_of_an_mpo_the_first_picture_is_kept_as_it_is() -> None:
    buffer = io.BytesIO()
    Image.fromarray(SMOOTH).save(
        buffer, "MPO", save_all=True, append_images=[Image.fromarray(255 - SMOOTH)], exif=exif(6)
    )
    photo = buffer.getvalue()
    info, stored = inspect(photo), strip_metadata(photo)
    assert info.orientation == 6
    assert len(stored) < len(photo) * 0.7
    np.testing.assert_array_equal(decode(stored, 6), decode(photo, 6))


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>quota exceeded</html>", "HTML page"),
        (b"II*\0\x10\0\0\0CR\x02\0" + bytes(99), "raw photograph"),
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(99), "CR3"),
        (b"FUJIFILMCCD-RAW 0201", "RAF"),
        (b"\xff\x0a" + bytes(99), "JPEG XL"),
        (encoded(1, "JPEG2000"), "JPEG 2000"),
        (b"8BPS" + bytes(99), "Photoshop"),
        (b"\0\0\0\x14ftypqt  " + bytes(99), "video"),
        (b"just text", "not a photograph of a type that is read"),
    ],
)
def test_what_is_not_read_is_named(head: bytes, reason: str) -> None:
    for function in (inspect, decode, strip_metadata):
        with pytest.raises(BadImage, match=reason):
            function(head)


def test_a_raw_photograph_is_not_taken_for_its_thumbnail() -> None:
    """A DNG is a TIFF file whose first picture is a small one, and its list of tags may stand at the file's end."""
    buffer = io.BytesIO()
    Image.fromarray(pixels(5)).save(buffer, "TIFF", tiffinfo={50706: b"\1\4\0\0", 254: 1})
    with pytest.raises(BadImage, match=r"raw photograph of a camera \(DNG\)"):
        inspect(buffer.getvalue())


@pytest.mark.parametrize("kind", ["HEIC", "AVIF", "BMP", "GIF"])
def test_every_cut_of_a_file_is_refused_with_a_reason(kind: str) -> None:
    photo = heic(pixels(7)) if kind == "HEIC" else encoded(7, kind)
    for share in (0.02, 0.1, 0.5, 0.9):
        with pytest.raises(BadImage, match=r"truncated|damaged|decoded"):
            inspect(photo[: int(len(photo) * share)])


def test_a_cut_heic_called_jpg_says_that_it_is_cut() -> None:
    with pytest.raises(BadImage, match="truncated"):
        inspect(heic(SMOOTH)[:700])


@pytest.mark.parametrize("kind", ["HEIC", "AVIF", "BMP", "GIF", "MPO"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_bytes_never_raise_anything_else(kind: str) -> None:
    rng = np.random.default_rng(0)
    photo = np.frombuffer(heic(pixels(8), exif=exif(6)) if kind == "HEIC" else encoded(8, kind), np.uint8)
    for k in range(80):
        broken = photo.copy()
        broken[rng.integers(0, len(broken) if k % 2 else 400, 6)] = rng.integers(0, 256, 6)
        with contextlib.suppress(BadImage):
            info = inspect(broken.tobytes())
            assert decode(strip_metadata(broken.tobytes()), info.orientation).shape == (info.height, info.width, 3)


def wide_png(values: np.ndarray) -> bytes:
    """(H, W, 3) uint16 -> PNG with 16 bits a channel, which Pillow reads but does not write."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def grey_tiff(values: np.ndarray, **tags: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF", tiffinfo={281: tags["highest"]} if tags else {})
    return buffer.getvalue()


RAMP = np.linspace(0, 1, 40 * 60).reshape(40, 60)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_camera_data_in_sixteen_bits_is_not_stored_nearly_black(bits: int) -> None:
    values = (RAMP * (2**bits - 1)).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    for photo in (buffer.getvalue(), grey_tiff(values), wide_png(np.repeat(values[..., None], 3, axis=2))):
        for check in (inspect, inspect_with_thumbnail):
            with pytest.raises(BadImage, match=r"has no value above .* of 65535.*scale it to 16 bits"):
                check(photo)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_a_tiff_that_states_its_highest_value_is_scaled(bits: int) -> None:
    photo = grey_tiff((RAMP * (2**bits - 1)).astype(np.uint16), highest=2**bits - 1)
    inspect(photo)
    np.testing.assert_allclose(decode(photo)[..., 1], RAMP * 255, atol=1)
    np.testing.assert_array_equal(decode(strip_metadata(photo)), decode(photo))


def test_a_highest_value_that_is_no_number_of_bits_scales_nothing() -> None:
    photo = grey_tiff((RAMP * 30000).astype(np.uint16), highest=30000)
    np.testing.assert_allclose(decode(photo)[..., 1], RAMP * 30000 / 257, atol=1)


def test_a_tiff_of_twelve_bits_a_pixel() -> None:
    values = (RAMP * 4095).astype(np.uint16)
    first, second = values[:, ::2].astype(np.uint32), values[:, 1::2].astype(np.uint32)
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1).astype(np.uint8).tobytes()
    tags = [(256, 60), (257, 40), (258, 12), (259, 1), (262, 1), (273, 200), (277, 1), (278, 40), (279, len(packed))]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    photo = (b"II*\0\x08\0\0\0" + directory).ljust(200, b"\0") + packed
    assert inspect(photo).width == 60
    np.testing.assert_allclose(decode(photo)[..., 0], RAMP * 255, atol=1)


def test_sixteen_bits_a_channel_keep_their_brightness() -> None:
    values = np.repeat((RAMP * 65535).astype(np.uint16)[..., None], 3, axis=2)
    photo = wide_png(values)
    inspect(photo)
    np.testing.assert_array_equal(decode(strip_metadata(photo)), (values >> 8).astype(np.uint8))

"""Masks as 1-bit PNG. Pillow's decoder is the reference for every file, whole or damaged."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ufgvc.data import mask_png
from ufgvc.data.images import BadImage
from ufgvc.data.mask_png import decode_mask, decode_packed_mask, encode_mask
from ufgvc.data.resize import resize_mask_square

SIZES = st.integers(1, 70)


def draw_mask(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width)) < 0.3


def by_pillow(mask: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask).convert("1", dither=Image.Dither.NONE).save(buffer, "PNG", **options)
    return buffer.getvalue()


@given(SIZES, SIZES, SIZES, st.integers(0, 9))
def test_a_mask_comes_back_and_is_packed_as_numpy_packs_it(height: int, width: int, side: int, seed: int) -> None:
    mask = draw_mask(height, width, seed)
    for png in (encode_mask(mask), by_pillow(mask)):
        np.testing.assert_array_equal(decode_mask(png), mask)
        found = decode_packed_mask(png, side)
        np.testing.assert_array_equal(found, np.packbits(resize_mask_square(mask, side), axis=1))


@pytest.mark.parametrize("side", [64, 448, 512])
@pytest.mark.parametrize(("height", "width"), [(900, 1200), (1201, 803), (3024, 4032), (512, 512), (300, 4000)])
def test_nearest_neighbour_takes_the_pixels_that_pillow_takes(height: int, width: int, side: int) -> None:
    mask = draw_mask(height, width)
    found = decode_packed_mask(encode_mask(mask), side)
    np.testing.assert_array_equal(found, np.packbits(resize_mask_square(mask, side), axis=1))


@pytest.mark.parametrize(("height", "width"), [(33, 41), (1, 1), (8, 16), (90, 120)])
def test_other_decoders_read_what_is_written(height: int, width: int) -> None:
    import cv2

    mask = draw_mask(height, width)
    png = encode_mask(mask)
    with Image.open(io.BytesIO(png)) as picture:
        assert (picture.format, picture.mode) == ("PNG", "1")
        np.testing.assert_array_equal(np.asarray(picture), mask)
    read = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(read, np.where(mask, 255, 0))


def test_what_is_written_needs_no_pillow_and_what_others_write_does(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = draw_mask(50, 60)
    asked: list[bytes] = []
    monkeypatch.setattr(mask_png, "_decode_any", lambda png: asked.append(png) or (np.zeros((50, 8), np.uint8), 60))
    decode_mask(encode_mask(mask))
    assert not asked
    decode_mask(by_pillow(mask, dpi=(72, 72)))
    assert len(asked) == 1


@given(st.data())
def test_a_changed_byte_is_judged_as_pillow_judges_it(data: st.DataObject) -> None:
    png = bytearray(encode_mask(draw_mask(19, 23)))
    place = data.draw(st.integers(0, len(png) - 1))
    png[place] ^= data.draw(st.integers(1, 255))
    assert outcome(decode_mask, bytes(png)) == outcome(by_pillow_alone, bytes(png))


@given(st.integers(0, 200))
def test_a_shortened_file_is_judged_as_pillow_judges_it(length: int) -> None:
    png = encode_mask(draw_mask(19, 23))[:length]
    assert outcome(decode_mask, png) == outcome(by_pillow_alone, png)


def outcome(decode: object, png: bytes) -> object:
    """The pixels, or the reason for refusing the bytes."""
    try:
        return np.asarray(decode(png), bool).tolist()  # type: ignore[operator]
    except BadImage as error:
        return error.reason


def by_pillow_alone(png: bytes) -> np.ndarray:
    rows, width = mask_png._decode_any(png)
    return np.unpackbits(rows, axis=1, count=width)


def with_rows(width: int, height: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def test_rows_with_a_filter_and_too_few_or_too_many_are_judged_by_pillow() -> None:
    filtered = with_rows(8, 2, b"\x00\xaa\x02\x01")  # the second row is the first plus 1
    np.testing.assert_array_equal(np.packbits(decode_mask(filtered), axis=1), [[0xAA], [0xAB]])
    for rows in (b"\x00\xaa", b"\x00\xaa\x00\x01\x00\x01", bytes(10_000_000)):
        png = with_rows(8, 2, rows)
        assert outcome(decode_mask, png) == outcome(by_pillow_alone, png)


@pytest.mark.parametrize(("width", "height"), [(8, 0), (0, 5), (0, 0)])
def test_a_mask_without_a_pixel_is_judged_by_pillow(width: int, height: int) -> None:
    png = with_rows(width, height, bytes(height))
    assert outcome(decode_mask, png) == outcome(by_pillow_alone, png)


def test_a_header_of_too_many_pixels_is_refused() -> None:
    with pytest.raises(BadImage, match="decompression bomb"):
        decode_mask(with_rows(1 << 20, 1 << 20, bytes(100)))


@pytest.mark.parametrize(("mode", "kind"), [("L", "PNG"), ("P", "PNG"), ("RGB", "PNG"), ("L", "JPEG")])
def test_what_is_no_one_bit_png_is_no_mask(mode: str, kind: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (40, 40), 1).save(buffer, kind)
    with pytest.raises(BadImage, match="is not a 1-bit PNG"):
        decode_mask(buffer.getvalue())
    whole = encode_mask(draw_mask(40, 40))
    with pytest.raises(BadImage):
        decode_mask(whole[: len(whole) // 2])

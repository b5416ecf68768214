"""Encodes and decodes masks as 1-bit PNG."""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from zlib_ng import zlib_ng

from ufgvc.data.images import MAX_PIXELS, BadImage, load_picture, open_picture

Bits = NDArray[np.uint8]
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BIT_DEPTH, _GREY = 1, 0


def encode_mask(mask: np.ndarray) -> bytes:
    """(H, W) bool -> 1-bit PNG whose rows are stored unfiltered.

    Filters do not make 1-bit rows smaller, and without them `decode_packed_mask` takes less than half the time.
    """
    packed = np.packbits(np.asarray(mask, dtype=bool), axis=1)
    rows = np.pad(packed, ((0, 0), (1, 0)))  # each row begins with its filter: 0, none
    height, width = mask.shape
    return _header(width, height) + _chunk(b"IDAT", zlib.compress(rows.tobytes())) + _chunk(b"IEND", b"")


def decode_mask(png: bytes) -> NDArray[np.bool_]:
    """1-bit PNG -> (H, W) bool. BadImage if the bytes are anything else: a grey mask has no agreed threshold."""
    rows, width = _decode(png)
    return np.unpackbits(rows, axis=1, count=width).astype(bool)


def decode_packed_mask(png: bytes, side: int) -> Bits:
    """1-bit PNG -> (side, ceil(side / 8)) uint8: resized by nearest neighbour, bits as of `numpy.packbits`."""
    rows, width = _decode(png)
    byte, bit, packed_bit = _nearest_bits(width, side)
    # Columns as rows, which numpy copies whole: half the time of `np.packbits` of single columns.
    columns = np.take(rows[_nearest(len(rows), side)].T.copy(), byte, axis=0)
    bits = (columns & bit != 0) * packed_bit
    return np.bitwise_or.reduce(bits.reshape(-1, 8, side), axis=1).T.copy()


@lru_cache(maxsize=256)
def _nearest(length: int, side: int) -> NDArray[np.intp]:
    """(side,): the pixels of a row of `length` that nearest neighbour takes, as Pillow rounds."""
    row = Image.fromarray(np.arange(length, dtype=np.int32)[None])
    return np.asarray(row.resize((side, 1), Image.Resampling.NEAREST))[0].astype(np.intp)


@lru_cache(maxsize=256)
def _nearest_bits(length: int, side: int) -> tuple[NDArray[np.intp], Bits, Bits]:
    """Where the pixels of `_nearest` lie in a packed row: (S,) byte and (S, 1) bit in it; and (S, 1) their bit in the
    packed row of `side`, 0 for those that make S a multiple of 8."""
    pixels = np.pad(_nearest(length, side), (0, -side % 8))
    packed_bit = np.where(np.arange(len(pixels)) < side, 0x80 >> np.arange(len(pixels)) % 8, 0)
    return pixels // 8, (0x80 >> pixels % 8).astype(np.uint8)[:, None], packed_bit.astype(np.uint8)[:, None]


def _decode(png: bytes) -> tuple[Bits, int]:
    """(H, ceil(W / 8)) uint8, bits as of `numpy.packbits`, and W."""
    return _decode_unfiltered(png) or _decode_any(png)


def _decode_unfiltered(png: bytes) -> tuple[Bits, int] | None:
    """As `_decode`, for what `encode_mask` writes; None for all other bytes, which Pillow has to judge."""
    header, data = png[: len(_header(0, 0))], png[len(_header(0, 0)) + 8 : -16]
    if len(png) < 60:
        return None
    width, height = struct.unpack(">II", header[16:24])
    if (
        png != _header(width, height) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
        or not 0 < width * height <= MAX_PIXELS
    ):
        return None
    size = height * (1 + (width + 7) // 8)
    try:
        rows = zlib_ng.decompressobj().decompress(data, size + 1)  # in a quarter of the time of zlib
    except zlib_ng.error:  # type: ignore[misc]  # not typed as an exception
        return None
    if len(rows) != size:
        return None
    filtered = np.frombuffer(rows, np.uint8).reshape(height, -1)
    return None if filtered[:, 0].any() else (filtered[:, 1:], width)


def _decode_any(png: bytes) -> tuple[Bits, int]:
    with open_picture(png) as picture:
        if (picture.format, picture.mode) != ("PNG", "1"):
            raise BadImage(f"is not a 1-bit PNG (but {picture.format}, mode {picture.mode})")
        load_picture(picture)
        return np.packbits(np.asarray(picture), axis=1), picture.width


def _header(width: int, height: int) -> bytes:
    return _SIGNATURE + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, _BIT_DEPTH, _GREY, 0, 0, 0))


def _chunk(kind: bytes, content: bytes) -> bytes:
    """PNG specification, section 5.3: length, type, content, CRC of type and content."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

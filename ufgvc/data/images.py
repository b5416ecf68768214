"""Decodes and checks images, and strips their metadata. Pillow judges what is valid."""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from ufgvc.core.errors import first_line
from ufgvc.data.colour import needs_conversion, to_srgb
from ufgvc.data.file_types import HEAD_BYTES, READABLE_TYPES, detect_file_type, explain_unreadable
from ufgvc.data.jpeg import decode_jpeg
from ufgvc.data.resize import shrink
from ufgvc.data.strip_metadata import STRIPPERS, is_lossy_webp

Pixels = NDArray[np.uint8]
MIN_SIDE = 32
QUALITY = 95  # of the JPEG that replaces a lossy image whose bytes cannot be kept
MAX_PIXELS = 178_956_970  # larger files are refused before they are decoded (half a gigabyte as RGB)
_ORIENTATION, _BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE = 0x0112, 258, 281
_MIN_PEAK = 1 << 14  # the brightest 16-bit pixel must reach a quarter of the range
# What Pillow's decoders raise on malformed files.
_DECODER_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, EOFError, OverflowError, RuntimeError),
    struct.error,
)
# Words in a decoder's message that mean a truncated file.
_TRUNCATION_WORDS = (
    *("truncated", "incomplete", "not enough", "unexpected end", "broken data stream", "insufficient"),
    *("meta box", "'meta' box"),
)
# EXIF orientation -> function that turns an array of pixels upright.
_UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


class BadImage(ValueError):
    """An image that cannot be used.  reason: for the user; it does not name the file."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class ImageInfo:
    """height, width: pixels of the upright image.  orientation: EXIF 1 to 8, as `decode` takes it."""

    height: int
    width: int
    orientation: int


def decode(image: bytes, orientation: int = 1) -> Pixels:
    """Decodes an image to (H, W, 3) uint8 sRGB, turned upright.

    Transparent pixels are composited on white; 16-bit and greyscale become 8-bit RGB; colours of another profile are
    converted to sRGB. Of an animation or sequence the first image is taken (HEIC: the primary one).
    orientation: EXIF 1 to 8, from the table of images or `inspect`. BadImage if the bytes are not a complete image.
    """
    with open_picture(image) as picture:
        plain = _decode_plain_jpeg(picture, image)
        pixels = _load(picture) if plain is None else plain
    return np.ascontiguousarray(_UPRIGHT[orientation](pixels))


def decode_photograph(image: bytes) -> Pixels:
    """As `decode`, checked as by `inspect` and turned upright as the file itself says; decodes once."""
    with open_picture(image) as picture:
        pixels = _decode_plain_jpeg(picture, image)
        if pixels is not None:
            orientation = _orientation(picture)
            _check_sides(picture)
        else:
            orientation, pixels = _check(picture).orientation, _load(picture)
    return np.ascontiguousarray(_UPRIGHT[orientation](pixels))


def inspect(image: bytes) -> ImageInfo:
    """Decodes an image to check that it is complete and large enough. BadImage if it is not."""
    with open_picture(image) as picture:
        return _check(picture)


def count_pixels(image: bytes) -> int:
    """Pixels of an image as its header says, without decoding it. BadImage if the header cannot be read."""
    with open_picture(image) as picture:
        return picture.width * picture.height


def inspect_with_thumbnail(image: bytes) -> tuple[ImageInfo, np.ndarray]:
    """As `inspect`, and the upright image resized to (THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3) uint8 sRGB; decodes once."""
    with open_picture(image) as picture:
        info = _check(picture)
        # To resize first is cheaper; Pillow can average in these modes only.
        resize_first = picture.mode in ("L", "LA", "RGB", "RGBA", "CMYK")
        small = _to_rgb(shrink(picture), picture) if resize_first else shrink(_to_rgb(picture, picture))
    return info, np.ascontiguousarray(_UPRIGHT[info.orientation](np.asarray(small)))


def strip_metadata(image: bytes) -> bytes:
    """The image without metadata (places, dates, owners, ICC profiles, thumbnails, comments, bytes after its end).

    JPEG, PNG and WebP in sRGB lose segments and are not encoded again. Other formats, other colours and animations are
    encoded from what `decode` returns without an orientation: as JPEG if the source is lossy, else as PNG.
    """
    with open_picture(image) as picture:
        kind = "JPEG" if picture.format == "MPO" else picture.format or ""
        keep = (
            kind in STRIPPERS
            and not needs_conversion(picture)
            and not (kind == "WEBP" and getattr(picture, "is_animated", False))
        )
        lossy = kind in ("JPEG", "HEIF", "AVIF") or (kind == "WEBP" and is_lossy_webp(image))
    if keep:
        return STRIPPERS[kind](image)
    buffer = io.BytesIO()
    # No chroma subsampling: subsampling twice would be visible.
    options: dict[str, int] = {"quality": QUALITY, "subsampling": 0} if lossy else {}
    Image.fromarray(decode(image)).save(buffer, "JPEG" if lossy else "PNG", **options)
    return buffer.getvalue()


def _decode_plain_jpeg(picture: ImageFile.ImageFile, image: bytes) -> Pixels | None:
    """The pixels as stored, if the file is a JPEG whose colours need no conversion; None if Pillow has to decode it."""
    if picture.format != "JPEG" or picture.mode not in ("L", "RGB") or needs_conversion(picture):
        return None
    return decode_jpeg(image)


def _load(picture: ImageFile.ImageFile) -> Pixels:
    load_picture(picture)
    try:
        return np.asarray(_to_rgb(picture, picture))
    except _DECODER_ERRORS as error:
        raise _decoding_error(error) from error


def load_picture(picture: ImageFile.ImageFile) -> None:
    """Decodes the pixels of an opened file. BadImage if that fails."""
    try:
        picture.load()
    except _DECODER_ERRORS as error:
        raise _decoding_error(error) from error


def open_picture(image: bytes) -> ImageFile.ImageFile:
    """Opens a file by the type that its first bytes show. BadImage if that is none of READABLE_TYPES."""
    file_type = detect_file_type(image)
    if file_type not in READABLE_TYPES:
        raise BadImage(explain_unreadable(image[:HEAD_BYTES]))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            if file_type == "heic":
                picture = _open_heic(image)
            else:
                picture = Image.open(io.BytesIO(image), formats=[file_type.upper()])
    except Image.DecompressionBombError:
        raise _decompression_bomb() from None
    except UnidentifiedImageError:
        raise BadImage(f"is a {file_type.upper()} variant that cannot be read, or its beginning is damaged") from None
    except _DECODER_ERRORS as error:
        raise _decoding_error(error) from error
    if picture.width * picture.height > MAX_PIXELS:
        raise _decompression_bomb()
    return picture


def _open_heic(image: bytes) -> ImageFile.ImageFile:
    # Imported here, because it takes time and few data sets need it.
    from pillow_heif.as_plugin import HeifImageFile

    return HeifImageFile(io.BytesIO(image))


def _decompression_bomb() -> BadImage:
    return BadImage(f"has more than {MAX_PIXELS // 1_000_000} million pixels (a decompression bomb?)")


def _decoding_error(error: BaseException) -> BadImage:
    text = first_line(error)
    if any(word in text.lower() for word in _TRUNCATION_WORDS):
        return BadImage("is truncated: the file ends before the picture does")
    return BadImage(f"cannot be decoded ({text})")


def _check(picture: ImageFile.ImageFile) -> ImageInfo:
    # Only known before loading: in most modes Pillow keeps the upper byte.
    is_16_bit = any("16" in str(tile[3]) for tile in picture.tile)
    load_picture(picture)
    # After loading, because reading the EXIF of a PNG decodes it, and a second decoding hides the first one's error.
    # Pillow turns a TIFF upright when it loads it, and reports the size of the upright image.
    orientation = 1 if picture.format == "TIFF" else _orientation(picture)
    width, height = picture.size
    if picture.mode in ("F", "I") and picture.format == "TIFF":
        raise BadImage("has 32-bit pixels, which have no agreed scale: save it with 8 or 16 bits a channel")
    if is_16_bit and _used_bits(picture) == 16:
        _check_range(picture)
    _check_sides(picture)
    if orientation >= 5:
        width, height = height, width
    return ImageInfo(height=height, width=width, orientation=orientation)


def _check_sides(picture: Image.Image) -> None:
    width, height = picture.size
    if min(width, height) < MIN_SIDE:
        raise BadImage(f"too small: {width} x {height} pixels, each side needs at least {MIN_SIDE}")


def _used_bits(picture: Image.Image) -> int:
    """How many bits of 16-bit grey pixels are used (9 to 16), by a TIFF's BitsPerSample or MaxSampleValue."""
    tags = getattr(picture, "tag_v2", None)
    if tags is None or not picture.mode.startswith("I"):
        return 16
    try:
        found = (tags.get(_BITS_PER_SAMPLE), tags.get(_MAX_SAMPLE_VALUE))
    except _DECODER_ERRORS:
        return 16
    bits, highest = (value[0] if isinstance(value, tuple) and value else value for value in found)
    if bits == 12:
        return 12
    return next((bits for bits in range(9, 16) if highest == 2**bits - 1), 16)


def _check_range(picture: Image.Image) -> None:
    """BadImage if all 16-bit pixels are dark: unscaled camera data of 10 to 14 bits, and the number is not recorded."""
    if picture.mode.startswith("I"):
        peak = int(np.asarray(picture.convert("I")).max())
    else:
        peak = 256 * int(np.asarray(picture.convert("RGB")).max()) + 255
    if peak < _MIN_PEAK:
        raise BadImage(
            f"has no value above {peak} of 65535, like 10- to 14-bit camera data that was not scaled, and would be "
            "nearly black: scale it to 16 bits, or save it with 8"
        )


def _orientation(picture: Image.Image) -> int:
    try:
        value = picture.getexif().get(_ORIENTATION, 1)
    except _DECODER_ERRORS:
        return 1  # the EXIF is damaged, the pixels need not be
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_rgb(picture: Image.Image, source: Image.Image) -> Image.Image:
    """Converts a loaded image to 8-bit sRGB.  source: the file that it comes from, with the profile and tags."""
    if picture.mode.startswith("I"):
        # 16-bit grey (Pillow's modes I and I;16): the upper eight of the used bits are kept.
        bits = _used_bits(source)
        values = np.clip(np.asarray(picture.convert("I")), 0, 2**bits - 1)
        return to_srgb(Image.fromarray((values >> (bits - 8)).astype(np.uint8)), source)
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        colours = to_srgb(rgba.convert("RGB"), source)
        colours.putalpha(rgba.getchannel("A"))
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), colours).convert("RGB")
    return to_srgb(picture, source)

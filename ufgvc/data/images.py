"""From an encoded photograph to pixels, and to the bytes that are stored: the same pixels without places, dates and thumbnails."""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from ufgvc.data.colour import has_own_colours, to_srgb
from ufgvc.data.kinds import HEAD_BYTES, READABLE, kind_of, refusal
from ufgvc.data.strip_metadata import CUTTERS, is_lossy_webp

MIN_SIDE = 32
SKETCH = 64  # side of the small picture by which photographs are compared
_GRID = 1024  # pixels of the longer side that go into it
QUALITY = 95  # of the JPEG that takes the place of a lossy photograph whose bytes cannot be kept
MAX_PIXELS = 178_956_970  # a file that claims more is refused before a pixel is decoded (half a gigabyte as RGB)
_ORIENTATION, _BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE = 0x0112, 258, 281
_LEAST_TOP = 1 << 14  # of 16-bit pixels the brightest has to reach a quarter of their range
# What Pillow's decoders are known to raise on bytes that somebody else wrote.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    EOFError,
    OverflowError,
    RuntimeError,
    struct.error,
)
_SIGNS_OF_A_CUT = (
    "truncated",
    "incomplete",
    "not enough",
    "unexpected end",
    "broken data stream",
    "insufficient",
    "meta box",
    "'meta' box",
)
# For each EXIF orientation: how rows and columns are read to set the photograph upright.
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
    """A photograph that cannot be used. `reason` is for people and names no file."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class ImageInfo:
    """height, width: pixels of the upright photograph. orientation: EXIF 1-8, what `decode` needs to set it upright."""

    height: int
    width: int
    orientation: int


def decode(image: bytes, orientation: int = 1) -> np.ndarray:
    """The upright photograph as (H, W, 3) uint8 sRGB. Transparent pixels lie on white; 16-bit and greyscale become 8-bit RGB.

    Of an animation or image sequence the first (HEIC: the primary) picture; colours of another profile are converted to sRGB.
    orientation: EXIF 1-8, from the image table or `inspect`. BadImage if the bytes are not a whole photograph.
    """
    with _open(image) as picture:
        try:
            picture.load()
            pixels = np.asarray(_to_rgb(picture, picture))
        except _DECODER_ERRORS as error:
            raise _explained(error) from error
    return np.ascontiguousarray(_UPRIGHT[orientation](pixels))


def inspect(image: bytes) -> ImageInfo:
    """Checks that the bytes are a whole photograph of usable size, by decoding them. BadImage(reason) if not."""
    with _open(image) as picture:
        return _checked(picture)


def inspect_with_sketch(image: bytes) -> tuple[ImageInfo, np.ndarray]:
    """What `inspect` says, and the upright photograph as (SKETCH, SKETCH, 3) uint8 sRGB, whatever its proportions, by one decoding."""
    with _open(image) as picture:
        info = _checked(picture)
        # Reduced first where Pillow can average in this mode, because that is the cheaper order.
        early = picture.mode in ("L", "LA", "RGB", "RGBA", "CMYK")
        small = _to_rgb(_reduced(picture), picture) if early else _reduced(_to_rgb(picture, picture))
    return info, np.ascontiguousarray(_UPRIGHT[info.orientation](np.asarray(small)))


def strip_metadata(image: bytes) -> bytes:
    """The same pixels without any metadata (places, dates, owners, thumbnails, comments, what follows the image's end).

    JPEG, PNG and WebP in sRGB are cut at the level of their segments: nothing is encoded again. All others (other kinds, other colours,
    animations) are encoded from what `decode` gives without a turn: as PNG, or as JPEG where the source has lost something already.
    """
    with _open(image) as picture:
        kind = "JPEG" if picture.format == "MPO" else picture.format or ""
        keep = (
            kind in CUTTERS
            and not has_own_colours(picture)
            and not (kind == "WEBP" and getattr(picture, "is_animated", False))
        )
        lossy = kind in ("JPEG", "HEIF", "AVIF") or (kind == "WEBP" and is_lossy_webp(image))
    if keep:
        return CUTTERS[kind](image)
    buffer = io.BytesIO()
    # Without subsampling: a second halving of the colours would show.
    options: dict[str, int] = {"quality": QUALITY, "subsampling": 0} if lossy else {}
    Image.fromarray(decode(image)).save(buffer, "JPEG" if lossy else "PNG", **options)
    return buffer.getvalue()


def encode_mask(mask: np.ndarray) -> bytes:
    """(H, W) bool -> 1-bit PNG."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(mask, dtype=bool)).convert("1", dither=Image.Dither.NONE).save(
        buffer, "PNG", optimize=False
    )
    return buffer.getvalue()


def decode_mask(png: bytes) -> np.ndarray:
    """1-bit PNG -> (H, W) bool. BadImage if the bytes are anything else: what grey means in a mask, only its author knows."""
    with _open(png) as picture:
        if (picture.format, picture.mode) != ("PNG", "1"):
            raise BadImage(f"is not a 1-bit PNG (but {picture.format}, mode {picture.mode})")
        try:
            return np.array(picture, dtype=bool)
        except _DECODER_ERRORS as error:
            raise _explained(error) from error


def _open(image: bytes) -> ImageFile.ImageFile:
    """The file as Pillow opens it, by what its bytes say that it is. BadImage if it is of no kind in READABLE."""
    kind = kind_of(image)
    if kind not in READABLE:
        raise BadImage(refusal(image[:HEAD_BYTES]))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = _open_heic(image) if kind == "heic" else Image.open(io.BytesIO(image), formats=[kind.upper()])
    except Image.DecompressionBombError:
        raise _bomb() from None
    except UnidentifiedImageError:
        raise BadImage(f"is {kind.upper()} of a form that cannot be read, or its beginning is damaged") from None
    except _DECODER_ERRORS as error:
        raise _explained(error) from error
    if picture.width * picture.height > MAX_PIXELS:
        raise _bomb()
    return picture


def _open_heic(image: bytes) -> ImageFile.ImageFile:
    # Loading the library takes time, which only those wait for who have such files.
    from pillow_heif.as_plugin import HeifImageFile

    return HeifImageFile(io.BytesIO(image))


def _bomb() -> BadImage:
    return BadImage(f"claims more than {MAX_PIXELS // 1_000_000} million pixels (a decompression bomb?)")


def _explained(error: BaseException) -> BadImage:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    if any(sign in text.lower() for sign in _SIGNS_OF_A_CUT):
        return BadImage("is truncated: the file ends before the picture does")
    return BadImage(f"cannot be decoded ({text})")


def _checked(picture: ImageFile.ImageFile) -> ImageInfo:
    wide = any(
        "16" in str(tile[3]) for tile in picture.tile
    )  # known before it is loaded only: of most modes Pillow keeps the upper byte
    try:
        picture.load()
    except _DECODER_ERRORS as error:
        raise _explained(error) from error
    # Only now: reading the EXIF of a PNG decodes it, and a second decoding hides what the first one found.
    # Pillow sets a TIFF upright itself when it loads it, and reports its size accordingly.
    orientation = 1 if picture.format == "TIFF" else _orientation(picture)
    width, height = picture.size
    if picture.mode in ("F", "I") and picture.format == "TIFF":
        raise BadImage("32-bit pixels have no agreed scale; save it with 8 or 16 bits a channel")
    if wide and _bits(picture) == 16:
        _check_range(picture)
    if min(width, height) < MIN_SIDE:
        raise BadImage(f"too small: {width} x {height} pixels, each side needs at least {MIN_SIDE}")
    if orientation >= 5:
        width, height = height, width
    return ImageInfo(height=height, width=width, orientation=orientation)


def _bits(picture: Image.Image) -> int:
    """How many of 16 grey bits are used, as far as the tags of a TIFF say it: 12 a pixel, or a highest value of 1023, 4095 and so on."""
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
    """BadImage for 16-bit pixels that are all dark: 10 to 14 bits of a camera that nobody has scaled; how many is not known."""
    if picture.mode.startswith("I"):
        top = int(np.asarray(picture.convert("I")).max())
    else:
        top = 256 * int(np.asarray(picture.convert("RGB")).max()) + 255
    if top < _LEAST_TOP:
        what = f"has no value above {top} of 65535, like 10- to 14-bit camera data that was not scaled, and would be nearly black"
        raise BadImage(f"{what}: scale it to 16 bits, or save it with 8")


def _reduced(picture: Image.Image) -> Image.Image:
    """(SKETCH, SKETCH) pixels. Of a large picture a grid of its pixels is averaged, which takes a tenth of the time and changes little."""
    share = max(picture.size) / _GRID
    if share > 1:
        picture = picture.resize([max(1, round(side / share)) for side in picture.size], Image.Resampling.NEAREST)
    return picture.resize((SKETCH, SKETCH), Image.Resampling.BILINEAR, reducing_gap=1.5)


def _orientation(picture: Image.Image) -> int:
    try:
        value = picture.getexif().get(_ORIENTATION, 1)
    except _DECODER_ERRORS:
        return 1  # damaged EXIF says nothing about the pixels
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_rgb(picture: Image.Image, source: Image.Image) -> Image.Image:
    """A loaded picture in 8-bit sRGB. source: the file that it comes from, whose profile and transparent colour hold for it."""
    if picture.mode.startswith("I"):
        # 16 bits a pixel (Pillow calls it I or I;16): of those that are used the upper eight are kept.
        bits = _bits(source)
        wide = np.clip(np.asarray(picture.convert("I")), 0, 2**bits - 1)
        return to_srgb(Image.fromarray((wide >> (bits - 8)).astype(np.uint8)), source)
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        colours = to_srgb(layer.convert("RGB"), source)
        colours.putalpha(layer.getchannel("A"))
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), colours).convert("RGB")
    return to_srgb(picture, source)

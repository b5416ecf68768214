"""Resizes pixels: photographs and masks to squares, photographs for the detector, thumbnails."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

THUMBNAIL_SIDE = 64  # pixels, of the thumbnails that duplicates are searched with
_GRID = 1024  # pixels along the longer side that such a thumbnail is computed from


def resize_square(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 -> (side, side, 3) uint8, bilinear and antialiased. The aspect ratio changes, as in the paper.

    torch's uint8 resize, which computes as Pillow's in a fifth of its time: at most one pixel in ten thousand differs
    by more than one grey level, and none by more than two.
    """
    if image.shape[:2] == (side, side):
        return image
    import torch  # here, because tasks that only list and pack photographs do without
    from torch.nn import functional

    # torch wants to know that nobody else writes, and warns of arrays that it may not write to.
    pixels = torch.from_numpy(image if image.flags.writeable else image.copy())
    planes = pixels.permute(2, 0, 1)[None]  # channels last in memory, for which torch has vector code
    return functional.interpolate(planes, (side, side), mode="bilinear", antialias=True)[0].permute(1, 2, 0).numpy()


def resize_mask_square(mask: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """(H, W) bool -> (side, side) bool, by nearest neighbour."""
    if mask.shape == (side, side):
        return mask
    return np.asarray(Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST), dtype=bool)


def resize_longest(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resizes (H, W, 3) uint8 so that the longest side is `side` pixels, bilinear and antialiased."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size == (width, height):
        return image
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0))


def shrink(picture: Image.Image) -> Image.Image:
    """Resizes to a square of THUMBNAIL_SIDE, from a grid of pixels if the image is large, in a tenth of the time."""
    step = max(picture.size) / _GRID
    if step > 1:
        picture = picture.resize([max(1, round(side / step)) for side in picture.size], Image.Resampling.NEAREST)
    return picture.resize((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BILINEAR, reducing_gap=1.5)


def encode_thumbnail(image: NDArray[np.uint8], side: int, quality: int = 85) -> bytes:
    """(H, W, 3) uint8 -> JPEG of at most `side` pixels on its longer side, without metadata."""
    small = Image.fromarray(image)
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=quality)
    return buffer.getvalue()

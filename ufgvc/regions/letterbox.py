"""Photographs in the shape the detector sees: resized for training on disk, fitted into a grey square for prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ufgvc.core.types import Box

Pixels = NDArray[np.uint8]
_PADDING = 114  # the grey that ultralytics pads with in training


def resize_longest(image: Pixels, side: int) -> Pixels:
    """(H, W, 3) uint8 with its longest side made `side` pixels, antialiased."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if size == (width, height):
        return image
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0))


def letterbox(image: Pixels, side: int) -> tuple[Pixels, tuple[float, float], int, int]:
    """The image in the middle of a grey square: pixels (side, side, 3), the scales of x and y, and its left and top edge there."""
    small = resize_longest(image, side)
    height, width = small.shape[:2]
    left, top = (side - width) // 2, (side - height) // 2
    square = np.full((side, side, 3), _PADDING, np.uint8)
    square[top : top + height, left : left + width] = small
    return square, (width / image.shape[1], height / image.shape[0]), left, top


def write_example(
    folder: Path, stem: str, image: Pixels, boxes: Sequence[Box], regions: Sequence[str], side: int
) -> None:
    """Adds one annotated photograph to a YOLO folder (`images`, `labels`), its longest side made `side` pixels."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    height, width = image.shape[:2]
    Image.fromarray(resize_longest(image, side)).save(folder / "images" / f"{stem}.png", compress_level=1)
    lines = [
        f"{regions.index(b.region)} {(b.x0 + b.x1) / 2 / width:.6f} {(b.y0 + b.y1) / 2 / height:.6f} "
        f"{b.width / width:.6f} {b.height / height:.6f}"
        for b in boxes
        if b.region in regions
    ]
    (folder / "labels" / f"{stem}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

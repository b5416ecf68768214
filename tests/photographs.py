"""Small photographs for tests: noise, so that every one is another file."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def pixels(seed: int | str, height: int = 40, width: int = 60) -> np.ndarray:
    """(height, width, 3) uint8."""
    key = zlib.crc32(str(seed).encode())
    return np.random.default_rng(key).integers(0, 255, (height, width, 3), dtype=np.uint8)


def encoded(seed: int | str = 0, kind: str = "JPEG", height: int = 40, width: int = 60, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(seed, height, width)).save(buffer, kind, **options)
    return buffer.getvalue()


def put(path: Path, data: bytes | str | None = None) -> Path:
    """Writes a file with its folders; without data a photograph of its own, drawn from its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = encoded(str(path), "PNG" if path.suffix == ".png" else "JPEG") if data is None else data
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def image_folder(root: Path, classes: tuple[str, ...] = ("a", "b"), each: int = 2) -> Path:
    """<split>/<class>/<k>.jpg"""
    for split in ("train", "test"):
        for name in classes:
            for k in range(each):
                put(root / split / name / f"{split}{k}.jpg")
    return root

"""Colour profiles: pixels in a photograph's own colours become sRGB, which is what everything after decoding takes them for."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageCms

SAME = 2  # largest difference, of 255, between the converted and the given pixels of a profile that counts as sRGB
_MODES = {
    "RGB": "RGB",
    "GRAY": "L",
    "CMYK": "CMYK",
}  # colour space of a profile -> mode of the pixels that it describes
_ERRORS = (OSError, ValueError, TypeError, ImageCms.PyCMSError)


def has_own_colours(picture: Image.Image) -> bool:
    """Whether the pixels differ visibly from sRGB. A damaged or unfitting profile counts as none."""
    return picture.mode == "LAB" or _conversion(picture) is not None


def to_srgb(picture: Image.Image, source: Image.Image) -> Image.Image:
    """The RGB form of a picture in mode L, RGB, CMYK or LAB (others are only brought to RGB).

    source: the opened file, whose profile describes the picture; the picture may be a part or a reduced copy of it.
    """
    if picture.mode == "LAB":
        return ImageCms.applyTransform(picture, _from_lab()) or picture
    found = _conversion(source)
    if found is None:
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    mode, transform = found
    fitting = picture if picture.mode == mode else picture.convert(mode)
    return ImageCms.applyTransform(fitting, transform) or fitting


def _conversion(picture: Image.Image) -> tuple[str, ImageCms.ImageCmsTransform] | None:
    profile = picture.info.get("icc_profile")
    if not isinstance(profile, bytes) or not profile:
        return None
    found = _transform(profile)
    if found is None:
        return None
    grey, cmyk = picture.mode in ("1", "L", "LA", "La") or picture.mode.startswith("I"), picture.mode == "CMYK"
    fits = {"L": grey, "CMYK": cmyk, "RGB": not cmyk}[found[0]]
    return found if fits else None


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform] | None:
    """The conversion to sRGB and the mode that it starts from; None if the profile is damaged or is sRGB itself.

    sRGB is known by what the profile does to a few colours, because its name may be anything.
    """
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = _MODES.get(source.profile.xcolor_space.strip())
        if mode is None:
            return None
        target = ImageCms.createProfile("sRGB")
        relative, black = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
        transform = ImageCms.buildTransform(source, target, mode, "RGB", relative, black)
        probes = _probes(mode)
        converted = ImageCms.applyTransform(probes, transform)
    except _ERRORS:
        return None
    difference = np.asarray(converted, np.int16) - np.asarray(probes.convert("RGB"), np.int16)
    return None if np.abs(difference).max() <= SAME else (mode, transform)


def _probes(mode: str) -> Image.Image:
    """Colours all over the space."""
    if mode == "L":
        return Image.fromarray(np.arange(0, 256, 5, dtype=np.uint8)[None])
    steps = np.linspace(0, 255, 6).astype(np.uint8)
    grid = np.stack(np.meshgrid(*[steps] * len(mode), indexing="ij"), axis=-1)
    return Image.fromarray(grid.reshape(6, -1, len(mode)), mode)


@functools.cache
def _from_lab() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")

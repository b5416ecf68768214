"""Converts images with an ICC colour profile to sRGB."""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageCms

# A profile counts as sRGB if it changes no probe colour by more than this, of 255.
SRGB_TOLERANCE = 2
_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # colour space of a profile -> Pillow mode
_ERRORS = (OSError, ValueError, TypeError, ImageCms.PyCMSError)


def needs_conversion(picture: Image.Image) -> bool:
    """Whether the pixels differ visibly from sRGB. A profile that is damaged or of another mode counts as none."""
    return picture.mode == "LAB" or _conversion(picture) is not None


def to_srgb(picture: Image.Image, source: Image.Image) -> Image.Image:
    """Converts an image in mode L, RGB, CMYK or LAB to sRGB; an image in another mode only to RGB.

    source: the opened file with the profile; `picture` may be a part or a reduced copy of it.
    """
    if picture.mode == "LAB":
        return ImageCms.applyTransform(picture, _from_lab()) or picture
    conversion = _conversion(source)
    if conversion is None:
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    mode, transform = conversion
    converted = picture if picture.mode == mode else picture.convert(mode)
    return ImageCms.applyTransform(converted, transform) or converted


def _conversion(picture: Image.Image) -> tuple[str, ImageCms.ImageCmsTransform] | None:
    """(mode, transform) of the image's profile if it has one that matches its mode and is not sRGB."""
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
    """The mode of a profile's pixels and the transform to sRGB; None if the profile is damaged or is sRGB.

    Whether it is sRGB is tested with a few colours, because its name may be anything.
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
    return None if np.abs(difference).max() <= SRGB_TOLERANCE else (mode, transform)


def _probes(mode: str) -> Image.Image:
    """An image with colours from the whole colour space."""
    if mode == "L":
        return Image.fromarray(np.arange(0, 256, 5, dtype=np.uint8)[None])
    steps = np.linspace(0, 255, 6).astype(np.uint8)
    grid = np.stack(np.meshgrid(*[steps] * len(mode), indexing="ij"), axis=-1)
    return Image.fromarray(grid.reshape(6, -1, len(mode)), mode)


@functools.cache
def _from_lab() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")

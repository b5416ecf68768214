"""What one photograph shows and how it was taken: leaf and background, sharpness, light, and facts of its file."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin
from scipy.ndimage import distance_transform_edt
from skimage.color import rgb2lab
from skimage.measure import blur_effect, label

from ufgvc.data.file_types import HEAD_BYTES, READABLE_TYPES, detect_file_type
from ufgvc.methods.layers.leaf_segmentation import MIN_CONTRAST, find_leaf

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]
SIDE, SHARP_SIDE, THUMBNAIL = 256, 512, 96  # pixels of the longer side: for the leaf, for sharpness, and shown
RIM = 5  # pixels of SIDE about the leaf's outline that count neither as leaf nor as background
RING, CENTRE = 0.08, 0.25  # of the side: where background and leaf are taken from if they cannot be separated
PLAIN = (24 / 255, 0.75)  # a background is plain if this share of the frame differs by less from its median
PART = 0.2  # of the largest part's area: a smaller one is not counted
TINY = 0.005  # of the photograph: a part of this size is no leaf
LEAST = 50  # pixels that a mean of colours needs
BACKGROUND, COLOUR, FILE = 13, 15, 8  # lengths of the features


@dataclass(frozen=True)
class Photograph:
    """What was measured on one photograph.

    facts: by name, NaN where they do not apply.  background (BACKGROUND,), colour (COLOUR,), file (FILE,): what the
    classifiers of `confounders` see.  thumbnail: JPEG of at most THUMBNAIL pixels.
    """

    facts: dict[str, Any]
    background: Floats
    colour: Floats
    file: Floats
    thumbnail: bytes


def measure(encoded: bytes, image: Pixels) -> Photograph:
    """Measures a photograph.  encoded: its file without metadata.  image: (H, W, 3) uint8, upright.

    Leaf and background are separated where the background is plain (`find_leaf`); elsewhere the outer ring counts as
    background and the centre as leaf, and what needs the outline is NaN. facts:
    bytes, width, height (pixels), file_type, quality (of a JPEG, 1 to 100), contrast (whether anything differs from the
    background), plain (the background), area (the leaf's share of the photograph), parts (of the leaf's colour, at
    least PART of the largest), on_frame (share of the frame that is leaf), blur (0 sharp to 1, Crete et al. 2007, of
    the leaf at SHARP_SIDE pixels), light (median L* / 100 of the leaf), clipped (share of the leaf that is black or
    white).
    """
    file_facts, file = _measure_file(encoded, image.shape[:2])
    small = _fit(image, SIDE)
    leaf, contrast, plain = separate(small)
    lab = rgb2lab(small)
    if plain and contrast:
        inner, outer = distance_transform_edt(leaf) > RIM / 2, distance_transform_edt(~leaf) > RIM
        outline = _measure_outline(leaf)
    else:
        inner, outer = _centre(leaf.shape), _ring(leaf.shape)
        outline = {"area": np.nan, "parts": np.nan, "on_frame": np.nan}
    inner = inner if inner.sum() >= LEAST else _centre(leaf.shape)
    light = lab[..., 0] / 100
    values = small[inner]
    facts = {
        **file_facts,
        "contrast": contrast,
        "plain": plain,
        **outline,
        "blur": float(blur_effect(_grey_crop(image, leaf if plain and contrast else None))),
        "light": float(np.median(light[inner])),
        "clipped": float(((values >= 250).all(axis=1) | (values <= 5).all(axis=1)).mean()),
    }
    background = _background_features(lab, outer if outer.sum() >= LEAST else _ring(leaf.shape))
    return Photograph(facts, background, _colour_features(lab[inner]), file, _thumbnail(image))


def separate(image: Pixels) -> tuple[NDArray[np.bool_], bool, bool]:
    """The leaf (H, W), whether the image (H, W, 3) has any contrast, and whether its background is plain."""
    values = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
    leaf = find_leaf(values)[0, 0].numpy() > 0.5
    frame = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).astype(float) / 255
    middle = np.median(frame, axis=0)
    off = np.abs(image / 255 - middle).max(axis=2)
    plain = (np.abs(frame - middle).max(axis=1) <= PLAIN[0]).mean() >= PLAIN[1]
    return leaf, bool(off.max() >= MIN_CONTRAST), bool(plain)


def _measure_outline(leaf: NDArray[np.bool_]) -> dict[str, float]:
    areas = np.bincount(label(leaf).ravel())[1:]
    areas = areas[areas >= TINY * leaf.size]
    frame = np.concatenate([leaf[0], leaf[-1], leaf[1:-1, 0], leaf[1:-1, -1]])
    parts = int((areas >= PART * areas.max()).sum()) if len(areas) else 0
    return {"area": float(leaf.mean()), "parts": float(parts), "on_frame": float(frame.mean())}


def _measure_file(encoded: bytes, shape: tuple[int, ...]) -> tuple[dict[str, Any], Floats]:
    file_type = detect_file_type(encoded[:HEAD_BYTES]) or "unknown"
    tables: list[Floats] = []
    sampling = -1
    if file_type == "jpeg":
        with Image.open(io.BytesIO(encoded)) as picture:
            tables = [np.asarray(table, float) for _, table in sorted(getattr(picture, "quantization", {}).items())]
            sampling = JpegImagePlugin.get_sampling(picture)
    height, width = shape
    first, last = (tables[0].mean(), tables[-1].mean()) if tables else (-1.0, -1.0)
    kind = READABLE_TYPES.index(file_type) if file_type in READABLE_TYPES else -1
    facts = {"bytes": len(encoded), "width": width, "height": height, "file_type": file_type}
    facts["quality"] = jpeg_quality(tables[0]) if tables else np.nan
    size = [width, height, first, last, sampling, kind]
    return facts, np.array([*size, len(encoded), len(encoded) / (width * height)], float)


# The mean of the IJG's luminance table at quality 50 (ITU-T T.81, table K.1).
_MEAN_AT_50 = 57.625


def jpeg_quality(table: Floats) -> float:
    """The quality (1 to 100) at which libjpeg makes a luminance table (64,) of this mean; of others the nearest one."""
    scale = 100 * float(table.mean()) / _MEAN_AT_50
    return float(np.clip(round((200 - scale) / 2 if scale <= 100 else 5000 / scale), 1, 100))


def _background_features(lab: Floats, outer: NDArray[np.bool_]) -> Floats:
    """(BACKGROUND,) mean and deviation of L*a*b*, the ends of L*, its noise, and the L* of the corners.

    Of the background alone: neither its area nor its shape, which are the leaf's.
    """
    values, light = lab[outer], lab[..., 0]
    noise = np.abs(np.diff(light, axis=1))[outer[:, 1:] & outer[:, :-1]]
    rows, columns = light.shape[0] // 4, light.shape[1] // 4
    corners = []
    for row in (slice(rows), slice(-rows, None)):
        for column in (slice(columns), slice(-columns, None)):
            here = light[row, column][outer[row, column]]
            corners.append(here.mean() if len(here) >= LEAST else values[:, 0].mean())
    ends = np.percentile(values[:, 0], [5, 95])
    roughness = noise.mean() if len(noise) else 0.0
    return np.array([*values.mean(axis=0), *values.std(axis=0), *ends, roughness, *corners])


def _colour_features(values: Floats) -> Floats:
    """(COLOUR,) mean, deviation and the deciles 1, 5 and 9 of the leaf's L*a*b* (P, 3), without its outline."""
    deciles = np.percentile(values, [10, 50, 90], axis=0)
    return np.array([*values.mean(axis=0), *values.std(axis=0), *deciles.ravel()])


def _grey_crop(image: Pixels, leaf: NDArray[np.bool_] | None) -> Floats:
    """The leaf's bounding box in grey, at most SHARP_SIDE pixels: a plain background has no edges to measure."""
    crop = image
    if leaf is not None and leaf.any():
        scale = image.shape[0] / leaf.shape[0]
        rows, columns = np.flatnonzero(leaf.any(axis=1)), np.flatnonzero(leaf.any(axis=0))
        top, bottom = int(rows[0] * scale), int((rows[-1] + 1) * scale)
        left, right = int(columns[0] * scale), int((columns[-1] + 1) * scale)
        crop = image[top:bottom, left:right]
    grey = Image.fromarray(np.ascontiguousarray(crop)).convert("L")
    grey.thumbnail((SHARP_SIDE, SHARP_SIDE), Image.Resampling.LANCZOS)
    found = np.asarray(grey, float) / 255
    return np.pad(found, [(0, max(0, 16 - side)) for side in found.shape], mode="edge")


def _fit(image: Pixels, side: int) -> Pixels:
    picture = Image.fromarray(image)
    picture.thumbnail((side, side), Image.Resampling.BOX)
    return np.asarray(picture)


def _thumbnail(image: Pixels) -> bytes:
    picture = Image.fromarray(image)
    picture.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _centre(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    inside = np.zeros(shape, bool)
    rows, columns = (int(CENTRE * side) for side in shape)
    inside[rows : shape[0] - rows, columns : shape[1] - columns] = True
    return inside


def _ring(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    outside = np.ones(shape, bool)
    rows, columns = (max(1, int(RING * side)) for side in shape)
    outside[rows : shape[0] - rows, columns : shape[1] - columns] = False
    return outside

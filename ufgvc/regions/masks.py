"""Makes the masks of an image from its boxes, one for each region. Kinds: box, luminance, structure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from skimage.filters import sato, threshold_otsu

from ufgvc.core.registry import Registry
from ufgvc.core.types import Box
from ufgvc.data.images import Pixels
from ufgvc.data.resize import resize_longest

Mask = NDArray[np.bool_]
# (image (H, W, 3) uint8, inside (H, W) bool: in the region's boxes, region) -> (H, W) bool
MaskFunction = Callable[[Pixels, Mask, str], Mask]
MASK_KINDS: Registry[MaskFunction] = Registry("kind of mask")
_WORKING_SIDE = 1024  # pixels; enough for the outline and the larger veins, and bounds the cost of large photographs
_VEIN_WIDTHS = (1 / 512, 2 / 512, 3 / 512)  # sigmas of the ridge filter, as shares of the longest side
_BAND = 1 / 80  # half width of the band along the outline, as a share of the longest side
_MIN_CONTRAST = 16  # of 255; less is noise


def make_masks(image: Pixels, boxes: Sequence[Box] | None, kind: str, regions: Sequence[str]) -> dict[str, Mask | None]:
    """{region: (H, W) bool} of an upright image (H, W, 3) uint8; None for a region without a box.

    kind: a key of MASK_KINDS that the regions may have (`check_kind`); UserError for another.
    """
    make = MASK_KINDS.get(kind)
    masks: dict[str, Mask | None] = dict.fromkeys(regions)
    for region in regions:
        mine = [box for box in boxes or () if box.region == region]
        if not mine:
            continue
        inside = rasterize_boxes(mine, image.shape[:2])
        masks[region] = make(image, inside, region) & inside
    return masks


def rasterize_boxes(boxes: Sequence[Box], shape: tuple[int, ...]) -> Mask:
    """(H, W) bool, True in every pixel that overlaps a box.  shape: (H, W, ...)."""
    mask = np.zeros(shape[:2], bool)
    for box in boxes:
        rows = slice(max(0, int(np.floor(box.y0))), max(0, int(np.ceil(box.y1))))
        columns = slice(max(0, int(np.floor(box.x0))), max(0, int(np.ceil(box.x1))))
        mask[rows, columns] = True
    return mask


def find_leaf(image: Pixels, holes: bool = False) -> Mask:
    """(H, W) bool: segments a leaf on a plain background.  holes: whether holes are background; else they are filled.

    The background colour is the median of the outermost pixels. The leaf is the largest connected component of the
    pixels that differ from it by more than the Otsu threshold of the differences. All is leaf if nothing differs.
    `methods/layers/leaf_segmentation.py` does the same for batches of tensors at training size, with soft masks.
    """
    edge = max(1, min(image.shape[:2]) // 100)
    frame = [image[:edge], image[-edge:], image[:, :edge], image[:, -edge:]]
    background = np.median(np.concatenate([side.reshape(-1, 3) for side in frame]), axis=0)
    difference = np.abs(image.astype(np.int16) - background.astype(np.int16)).max(axis=2)
    if difference.max() < _MIN_CONTRAST:
        return np.ones(image.shape[:2], bool)
    pieces, count = ndimage.label(difference > _threshold(difference))
    if count == 0:
        return np.ones(image.shape[:2], bool)
    largest = np.bincount(pieces.ravel())[1:].argmax() + 1
    leaf: Mask = pieces == largest
    return leaf if holes else ndimage.binary_fill_holes(leaf)


def _ridges(light: NDArray[Any], widths: list[float], dark: bool) -> NDArray[Any]:
    return np.asarray(sato(light, sigmas=widths, black_ridges=dark))  # type: ignore[no-untyped-call]


def _threshold(values: NDArray[Any]) -> float:
    return float(threshold_otsu(values))  # type: ignore[no-untyped-call]


def luminance(image: Pixels) -> NDArray[np.uint8]:
    """(H, W) uint8, ITU-R BT.601 luma."""
    return np.rint(image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)).astype(np.uint8)


@MASK_KINDS.register("box")
def box_mask(image: Pixels, inside: Mask, region: str) -> Mask:
    """1 inside the region's boxes."""
    return inside


@MASK_KINDS.register("luminance")
def luminance_mask(image: Pixels, inside: Mask, region: str) -> Mask:
    """The paper's "converted to binary": leaf pixels in the boxes that are brighter than their Otsu threshold.

    The background is 0, although it is often the brightest part of the photograph.
    """
    return _at_working_size(image, inside, _bright)


@MASK_KINDS.register("structure")
def structure_mask(image: Pixels, inside: Mask, region: str) -> Mask:
    """Vein pixels in vein boxes (ridge filter of Sato et al. 1998), a band along the outline in contour boxes.

    Not in the paper.
    """
    return _at_working_size(image, inside, {"vein": _veins, "contour": _outline}[region])


def _bright(image: Pixels, inside: Mask) -> Mask:
    # Without the outermost pixels of the leaf, which are mixed with the background and would be bright on white paper.
    usable = inside & ndimage.binary_erosion(find_leaf(image, holes=True), border_value=1)
    light = luminance(image)
    values = light[usable]
    if values.size == 0 or values.min() == values.max():
        return np.zeros_like(usable)
    bright: Mask = usable & (light > _threshold(values))
    return bright


def _veins(image: Pixels, inside: Mask) -> Mask:
    side = max(image.shape[:2])
    widths = [max(1.0, share * side) for share in _VEIN_WIDTHS]
    leaf = find_leaf(image)
    # Excludes the outline, which is a ridge too. A leaf that fills the image has no outline at the image's edge.
    margin = ndimage.distance_transform_edt(np.pad(leaf, 1, mode="edge"))[1:-1, 1:-1]
    usable = inside & (margin > 2 * widths[-1])
    if not usable.any():
        return np.zeros_like(usable)
    rows, columns = _bounding_slices(inside, round(4 * widths[-1]))
    light = luminance(image)[rows, columns].astype(np.float32) / 255
    # Most veins are lighter than the blade, some are darker: take the polarity with the stronger response.
    responses = [_ridges(light, widths, dark) for dark in (False, True)]
    within = usable[rows, columns]
    response = max(responses, key=lambda r: float(np.quantile(r[within], 0.98)))
    values = response[within]
    mask: Mask = np.zeros_like(usable)
    if values.max() > 1e-4:
        mask[rows, columns] = within & (response > _threshold(values))
    return mask


def _outline(image: Pixels, inside: Mask) -> Mask:
    leaf = find_leaf(image)
    if leaf.all():
        return np.zeros_like(leaf)
    reach = max(1.0, _BAND * max(leaf.shape))
    padded = np.pad(leaf, 1, mode="edge")  # no outline where the leaf reaches the image's edge
    distance = ndimage.distance_transform_edt(padded) + ndimage.distance_transform_edt(~padded)
    band: Mask = distance[1:-1, 1:-1] <= reach
    return band & inside


def _bounding_slices(inside: Mask, margin: int) -> tuple[slice, slice]:
    """(rows, columns) of the bounding rectangle of the True pixels, with a margin."""
    spans = []
    for axis in (1, 0):
        found = np.flatnonzero(inside.any(axis=axis))
        spans.append(slice(max(0, int(found[0]) - margin), int(found[-1]) + 1 + margin))
    return spans[0], spans[1]


def _at_working_size(image: Pixels, inside: Mask, make: Callable[[Pixels, Mask], Mask]) -> Mask:
    """Runs `make` on the image, reduced to _WORKING_SIDE if it is larger, and resizes the mask back."""
    height, width = inside.shape
    if max(height, width) <= _WORKING_SIDE:
        return make(image, inside)
    small = resize_longest(image, _WORKING_SIDE)
    size = (small.shape[1], small.shape[0])
    inside_small = np.asarray(Image.fromarray(inside).resize(size, Image.Resampling.NEAREST))
    mask = make(small, inside_small)
    return np.array(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))

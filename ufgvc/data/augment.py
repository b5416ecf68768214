"""Batched augmentation of decoded images, on the device that holds them.

Images come in as uint8 and leave as float in [0, 1], channels_last. An image and its masks always get the same crop,
flip and rotation.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ufgvc.data.transfer import to_device

# Of SplitMix64 (Steele, Lea and Flood 2014): a counter with this step, then two rounds of multiply and shift.
_STEP = 0x9E3779B97F4A7C15
_MASK_64 = (1 << 64) - 1
Place = tuple[int, int, bool]  # first row and first column of pixels, whether the crop is flipped
CROP_RATIO = (3 / 4, 4 / 3)  # of width to height of a crop of random size: torchvision's


def image_key(image_id: str) -> int:
    """A 64-bit hash of an image's id."""
    return int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=8).digest(), "little")


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def per_image_uniforms(image_keys: NDArray[np.uint64], seed: int, epoch: int, n: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), (B, n) float64, that depend on seed, epoch and image only, not on batch or rank.

    image_keys: (B,) uint64 of `image_key`.
    """
    # Seed and epoch go through the mixer one after the other, so that (seed 1, epoch 2) is far from (seed 2, epoch 1).
    salt = _mix(
        _mix(np.array([seed & _MASK_64], np.uint64) + np.uint64(_STEP)) + np.array([epoch & _MASK_64], np.uint64)
    )
    state = _mix(_mix(image_keys.astype(np.uint64, copy=False)) + salt)
    counters = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(_STEP)
    return (_mix(state[:, None] + counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def augment(
    images: Tensor,
    masks: Mapping[str, Tensor],
    uniforms: Tensor,
    crop: int,
    rotate: float = 0.0,
    crop_scale: tuple[float, float] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """A random crop, flipped left to right with probability 1/2, after a rotation by -`rotate` to `rotate` degrees.

    images: (B, R, R, 3) uint8.  masks: {region: (B, R, R) uint8 of 0 and 1, or bool}.
    uniforms: (B, 3) in [0, 1) for top, left and flip; (B, 4) with `rotate`, for the angle; (B, 6) with `crop_scale`,
    for area and ratio.  crop: side in pixels.  crop_scale: smallest and largest share of the image's area; the crop has
    a random size (`crop_sides`) and is resized to `crop`, bilinear without antialiasing (masks: nearest).
    Returns images (B, 3, crop, crop) float in [0, 1], channels_last, and masks {region: (B, 1, crop, crop) float in
    [0, 1]}. What a rotation moves in from outside of the image is black and has mask 0. ValueError if crop > R.
    """
    height, width = images.shape[1], images.shape[2]
    if crop > min(height, width):
        raise ValueError(f"a crop of {crop} px does not fit into photographs of {width} x {height} px")
    # Positions are computed in float64 on the CPU, so that every device takes the same crop.
    uniforms = uniforms.cpu().double()
    tall, wide = crop_sides(uniforms, crop, height, width, crop_scale)
    top = (uniforms[:, 0] * (height - tall + 1)).long()
    left = (uniforms[:, 1] * (width - wide + 1)).long()
    flip = uniforms[:, 2] < 0.5
    if rotate or crop_scale:
        angle = torch.deg2rad((2 * uniforms[:, 3] - 1) * rotate)
        grid = _crop_grid(top, left, tall, wide, flip, angle, crop, height, width)
        grid = to_device(grid.float(), images.device)
        # Interpolation may exceed 1 by a rounding error.
        edge = "zeros" if rotate else "border"
        sampled = _divide_by_255(_sample(images.permute(0, 3, 1, 2), grid, "bilinear", edge)).clamp(0, 1)
        return _channels_last(sampled), {
            region: _sample(mask[:, None], grid, "nearest") for region, mask in masks.items()
        }
    side = torch.arange(crop)
    rows = top[:, None] + side
    columns = left[:, None] + torch.where(flip[:, None], crop - 1 - side, side)
    index = torch.arange(len(uniforms), device=images.device)[:, None, None]
    rows, columns = to_device(rows, images.device)[:, :, None], to_device(columns, images.device)[:, None, :]
    cropped = {region: mask[index, rows, columns][:, None].float() for region, mask in masks.items()}
    return to_float(images[index, rows, columns]), cropped


def crop_resident(
    images: Tensor,
    packed: Mapping[str, Any],
    rows: Tensor,
    places: Sequence[Place],
    side: int,
    compiled: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Crops of images and packed masks that lie on the training device, without touching pixels outside of them.

    images: (N, R, R, 3) uint8.  packed: {region: (N, R, ceil(R / 8)) uint8}, bits as of `numpy.packbits`.
    rows: (B,) int64 on the device, the images that are meant.  places: of `place_crops`.  side: of the crops.
    compiled: by torch.compile, in one kernel for each result, whose last bit may differ.
    Returns images (B, 3, side, side) float in [0, 1], channels_last, and masks {region: (B, 1, side, side) of 0 and 1}
    uint8.
    """
    top, left, flip = (torch.tensor(each) for each in zip(*places, strict=True))
    steps = torch.arange(side)
    right = left[:, None] + torch.where(flip[:, None], side - 1 - steps, steps)
    down, right = to_device(torch.stack([top[:, None] + steps, right]), images.device)
    gather = _compiled_gather() if compiled else _gather
    return gather(images, dict(packed), rows[:, None, None], down[:, :, None], right[:, None, :])


def _gather(
    images: Tensor, packed: dict[str, Tensor], rows: Tensor, down: Tensor, right: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    byte, shift = right >> 3, (7 - (right & 7)).byte()
    masks = {region: ((bits[rows, down, byte] >> shift) & 1)[:, None] for region, bits in packed.items()}
    return to_float(images[rows, down, right]), masks


@functools.cache
def _compiled_gather() -> Any:
    return torch.compile(_gather, dynamic=False)


def place_crops(uniforms: NDArray[np.float64], crop: int, side: int) -> list[Place]:
    """First row, first column and flip of the crops that `augment` takes of images of `side` pixels without a rotation.

    uniforms: (B, 3 or more).  ValueError if crop > side.
    """
    if crop > side:
        raise ValueError(f"a crop of {crop} px does not fit into photographs of {side} x {side} px")
    places = (uniforms[:, :2] * (side - crop + 1)).astype(np.int64)
    return list(zip(*places.T.tolist(), (uniforms[:, 2] < 0.5).tolist(), strict=True))


def crop_sides(
    uniforms: Tensor, crop: int, height: int, width: int, crop_scale: tuple[float, float] | None
) -> tuple[Tensor, Tensor]:
    """Height and width (B,) float64 of the crops in whole pixels: `crop` each, or random with `crop_scale`.

    As in torchvision's RandomResizedCrop, they have an area uniform in that range and a ratio of width to height that
    is log-uniform in CROP_RATIO. torchvision draws again where a side does not fit into the image; here the side is
    then the image's.  uniforms: (B, 6) with `crop_scale`, see `augment`.
    """
    if crop_scale is None:
        side = torch.full((len(uniforms),), float(crop), dtype=torch.float64)
        return side, side
    area = (crop_scale[0] + uniforms[:, 4] * (crop_scale[1] - crop_scale[0])) * height * width
    low, high = (math.log(bound) for bound in CROP_RATIO)
    ratio = (low + uniforms[:, 5] * (high - low)).exp()
    return (area / ratio).sqrt().round().clamp(1, height), (area * ratio).sqrt().round().clamp(1, width)


def _crop_grid(
    top: Tensor,
    left: Tensor,
    tall: Tensor,
    wide: Tensor,
    flip: Tensor,
    angle: Tensor,
    crop: int,
    height: int,
    width: int,
) -> Tensor:
    """Sampling grid (B, crop, crop, 2) in [-1, 1] of crops of images that are rotated about their centre.

    top, left, tall, wide: (B,) pixels.  flip: (B,) bool.  angle: (B,) radians.
    """
    x, y = left + (wide - width) / 2, top + (tall - height) / 2  # the crop's centre, from the image's
    cos, sin, sign = angle.cos(), angle.sin(), torch.where(flip, -1.0, 1.0)
    theta = [
        torch.stack([sign * cos * wide / width, -sin * tall / width, (cos * x - sin * y) * 2 / width], dim=1),
        torch.stack([sign * sin * wide / height, cos * tall / height, (sin * x + cos * y) * 2 / height], dim=1),
    ]
    return functional.affine_grid(torch.stack(theta, dim=1), [len(top), 1, crop, crop], align_corners=False)


def _sample(channels: Tensor, grid: Tensor, mode: str, edge: str = "zeros") -> Tensor:
    return functional.grid_sample(channels.float(), grid, mode=mode, padding_mode=edge, align_corners=False)


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def _divide_by_255(values: Tensor) -> Tensor:
    """values / 255, rounded alike on every device: a GPU divides by a Python number with its reciprocal."""
    return values / values.new_full((), 255, dtype=torch.float32)


def to_float(images: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float in [0, 1]; the memory layout stays, it is channels_last already."""
    if images.device.type == "cpu":  # one pass, where torch makes two and a copy of 12 bytes a pixel
        values = np.empty(images.shape, np.float32)
        np.divide(images.numpy(), np.float32(255), out=values)
        return torch.from_numpy(values).permute(0, 3, 1, 2)
    return _channels_last(_divide_by_255(images.permute(0, 3, 1, 2)))


def eval_view(images: Tensor, size: int) -> Tensor:
    """The centre crop of `size` x `size` pixels.

    images: (B, R, R, 3) uint8.  Returns (B, 3, size, size) float in [0, 1], channels_last. ValueError if size > R.
    """
    height, width = images.shape[1], images.shape[2]
    if size > min(height, width):
        raise ValueError(f"a view of {size} px does not fit into photographs of {width} x {height} px")
    top, left = (height - size) // 2, (width - size) // 2
    return to_float(images[:, top : top + size, left : left + size])

"""Crops are the same on both devices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ufgvc.core.region_names import PAPER_REGIONS
from ufgvc.data.augment import augment, crop_resident, place_crops
from ufgvc.data.augment import eval_view as middle_view

pytestmark = pytest.mark.gpu
FULL, CROP, COUNT = 80, 64, 16


def photographs() -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Images (B, R, R, 3) uint8, masks (B, R, R) uint8 and chance (B, 4), the same every time."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randint(0, 256, (COUNT, FULL, FULL, 3), generator=generator, dtype=torch.uint8)
    masks: dict[str, Tensor] = {
        region: torch.randint(0, 2, (COUNT, FULL, FULL), generator=generator, dtype=torch.uint8)
        for region in PAPER_REGIONS
    }
    return images, masks, torch.rand(COUNT, 4, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("with_masks", [False, True])
def test_the_same_crops_to_the_bit(with_masks: bool, device: torch.device) -> None:
    images, masks, chance = photographs()
    masks = masks if with_masks else {}
    wanted, wanted_masks = augment(images, masks, chance, CROP)
    found, found_masks = augment(
        images.to(device), {name: mask.to(device) for name, mask in masks.items()}, chance, CROP
    )
    assert found.is_contiguous(memory_format=torch.channels_last)
    off = (found.cpu() != wanted).sum()
    assert off == 0, f"{off} of {wanted.numel()} numbers differ, by at most {(found.cpu() - wanted).abs().max():.1e}"
    assert set(found_masks) == set(wanted_masks)
    for name, mask in wanted_masks.items():
        assert torch.equal(found_masks[name].cpu(), mask), (
            f"{(found_masks[name].cpu() != mask).sum()} pixels of {name} differ"
        )


@pytest.mark.parametrize("compiled", [False, True])
def test_crops_of_images_on_the_device(compiled: bool, device: torch.device) -> None:
    """Of packed masks and some images of many; the compiler divides with another last bit."""
    if compiled and device.type != "cuda":
        pytest.skip("the CPU's own compiler takes minutes, and trainings there do not use it")
    images, masks, chance = photographs()
    rows = torch.tensor([3, 0, 3, 15, 7])
    wanted, wanted_masks = augment(images[rows], {name: mask[rows] for name, mask in masks.items()}, chance[:5], CROP)
    packed = {name: torch.from_numpy(np.packbits(mask.numpy(), axis=2)).to(device) for name, mask in masks.items()}
    places = place_crops(chance[:5].numpy(), CROP, FULL)
    found, found_masks = crop_resident(images.to(device), packed, rows.to(device), places, CROP, compiled)
    gap = float((found.cpu() - wanted).abs().max())
    assert gap <= (1e-6 if compiled else 0.0)
    assert found.is_contiguous(memory_format=torch.channels_last)
    for name, mask in wanted_masks.items():
        assert torch.equal(found_masks[name].cpu().float(), mask), name


def test_turned_crops_differ_by_the_rounding_of_the_interpolation(device: torch.device) -> None:
    images, masks, chance = photographs()
    wanted, wanted_masks = augment(images, masks, chance, CROP, 15.0)
    found, found_masks = augment(
        images.to(device), {name: mask.to(device) for name, mask in masks.items()}, chance, CROP, 15.0
    )
    # The weights are differences of float32 positions of up to 80 px: an error of 80 / 2^23 of the whole range of a
    # pixel, a few times.
    gap = float((found.cpu() - wanted).abs().max())
    assert gap < 1e-4, f"pixels in [0, 1] differ by up to {gap:.1e}"
    for name, mask in wanted_masks.items():
        # The nearest pixel flips where a position lies on the border of two.
        off = float((found_masks[name].cpu() != mask).float().mean())
        assert off < 1e-3, f"{off:.1e} of the pixels of {name} differ"


def test_the_same_middle_to_the_bit(device: torch.device) -> None:
    images, _, _ = photographs()
    assert torch.equal(middle_view(images.to(device), CROP).cpu(), middle_view(images, CROP))

"""Crops of images and packed masks where they lie: exactly those that `augment` takes of whole images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.unit.test_modern_resume import LEAVES, SIDE, worker
from ufgvc.data.augment import augment, crop_resident, place_crops, to_float
from ufgvc.data.crops import crop_images, crop_masks, pool_mask, unpack
from ufgvc.methods.mask_guided import attention_target
from ufgvc.training.loader import BatchLoader

SIZE = 41  # no multiple of 8, so the last byte of a row of packed bits is part empty


@pytest.mark.parametrize("crop", [SIZE, 40, 33, 8, 1])
def test_they_are_those_of_augment(crop: int) -> None:
    random = np.random.default_rng(crop)
    images = random.integers(0, 256, (7, SIZE, SIZE, 3), dtype=np.uint8)
    masks = random.random((7, SIZE, SIZE)) < 0.3
    rows = np.array([5, 0, 5, 6, 2, 1, 3, 4, 0, 1, 2, 3])
    uniforms = random.random((len(rows), 4))
    uniforms[0, :3] = 0.0, 1 - 1e-12, 0.0  # the edges of the ranges
    uniforms[1, :3] = 1 - 1e-12, 0.0, 1 - 1e-12
    whole, whole_masks = augment(
        torch.from_numpy(images[rows]), {"vein": torch.from_numpy(masks[rows])}, torch.from_numpy(uniforms), crop
    )
    crops = [(int(row), *place) for row, place in zip(rows, place_crops(uniforms, crop, SIZE), strict=True)]
    assert {flip for *_, flip in crops} == {True, False}
    cropped = crop_images(images, crops, crop)
    assert torch.equal(to_float(torch.from_numpy(cropped)), whole)
    packed = np.packbits(masks, axis=2)
    assert torch.equal(unpack(torch.from_numpy(packed), SIZE).bool(), torch.from_numpy(masks))
    mask = crop_masks(packed, crops, crop)
    assert torch.equal(torch.from_numpy(mask).float(), whole_masks["vein"][:, 0])
    places = [place for _, *place in crops]
    held = torch.from_numpy(images), {"vein": torch.from_numpy(packed)}, torch.from_numpy(rows)
    there_images, there = crop_resident(*held, places, crop)
    assert torch.equal(there_images, whole)
    assert there_images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(there["vein"][:, 0], torch.from_numpy(mask))


def test_a_crop_larger_than_the_image() -> None:
    with pytest.raises(ValueError, match="a crop of 42 px does not fit"):
        place_crops(np.zeros((1, 4)), SIZE + 1, SIZE)


def test_bytes_become_the_float_that_is_nearest_to_the_quotient() -> None:
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(2, 16, 16, 3)
    found = to_float(values)
    assert found.shape == (2, 3, 16, 16)
    assert found.is_contiguous(memory_format=torch.channels_last)
    wanted = (np.arange(256, dtype=np.float64) / 255).astype(np.float32).reshape(16, 16)
    assert all((found[image, channel].numpy() == wanted).all() for image in range(2) for channel in range(3))


@pytest.mark.parametrize(("height", "width", "size"), [(448, 448, (14, 14)), (30, 20, (3, 5)), (255, 1, (1, 1))])
def test_the_mean_of_each_cell(height: int, width: int, size: tuple[int, int]) -> None:
    mask = (np.random.default_rng(1).random((3, 1, height, width)) < 0.4).astype(np.uint8)
    mask[0] = 1  # the largest sums
    found = pool_mask(torch.from_numpy(mask), size)
    assert found is not None
    assert found.dtype == torch.float32
    (rows, columns), tall, wide = size, height // size[0], width // size[1]
    for image in range(3):
        for row in range(rows):
            for column in range(columns):
                cell = mask[image, 0, row * tall : (row + 1) * tall, column * wide : (column + 1) * wide]
                assert found[image, 0, row, column] == np.float32(int(cell.sum()) / cell.size)


@pytest.mark.parametrize(("height", "size"), [(30, (4, 4)), (256, (1, 1)), (5, (7, 7))])
def test_cells_of_unequal_size_and_sums_that_no_byte_holds_are_left_to_torch(
    height: int, size: tuple[int, int]
) -> None:
    mask = np.ones((1, 1, height, height), np.uint8)
    assert pool_mask(torch.from_numpy(mask), size) is None
    target, nonempty = attention_target(torch.from_numpy(mask), size)
    assert torch.equal(target, torch.ones(1, 1, *size))
    assert nonempty.tolist() == [True]


def test_targets_of_bytes_are_those_of_numbers() -> None:
    mask = torch.from_numpy((np.random.default_rng(2).random((4, 1, 64, 64)) < 0.1).astype(np.uint8))
    mask[2] = 0
    for size in ((2, 2), (8, 8), (5, 7)):
        (found, has), (wanted, wanted_has) = attention_target(mask, size), attention_target(mask.float(), size)
        assert torch.allclose(found, wanted, rtol=1e-6, atol=0)
        assert has.tolist() == wanted_has.tolist() == [True, True, False, True]


def test_the_loader_gives_the_batches_of_whole_images(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The same epoch by crops on the host, and on a device that holds the images."""
    started = worker("mask_guided", tmp_path_factory.mktemp("run"))
    plain = started.recipe.model_copy(update={"rotate": 0.0, "crop_scale": None, "cutmix": 0.0})
    loader = replace(started.loader, recipe=plain)

    def by_position(loader: BatchLoader) -> dict[int, list[np.ndarray]]:
        found = {}
        for raw in loader.source.epoch(1):
            batch = loader.augment(raw, 1)
            for place, position in enumerate(raw.positions.tolist()):
                found[position] = [
                    each[place].numpy() for each in (batch.images, *(mask.float() for mask in batch.masks.values()))
                ]
        return found

    from ufgvc.data.cache import copy_to_device

    assert not isinstance(next(loader.source.epoch(1)).held_images, torch.Tensor)
    source = loader.source
    resident = copy_to_device(source.data, source.labels, source.device)  # type: ignore[attr-defined]
    on_device = by_position(replace(loader, source=replace(source, resident=resident)))  # type: ignore[type-var]
    on_host = by_position(loader)
    assert sorted(on_host) == sorted(on_device) == list(range(LEAVES - 3))
    for position, wanted in on_device.items():
        assert len(wanted) == 3
        assert wanted[0].shape == (3, 64, 64)
        assert SIDE > 64
        for one, other in zip(on_host[position], wanted, strict=True):
            np.testing.assert_array_equal(one, other)

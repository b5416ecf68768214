"""Augmentation: an image and its masks are changed alike, and the random numbers depend on the image only."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ufgvc.data.augment import augment, eval_view, image_key, per_image_uniforms

SIDE, CROP, BLOCK = 64, 48, 8


def keys(count: int, start: int = 0) -> np.ndarray:
    return np.array([image_key(f"leaf_{number}") for number in range(start, start + count)], np.uint64)


def painted(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Photographs (B, R, R, 3) uint8, black but for one white block somewhere, and the masks of these blocks."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, SIDE - BLOCK, (count, 2), generator=generator)
    images = torch.zeros(count, SIDE, SIDE, 3, dtype=torch.uint8)
    for image, (top, left) in zip(images, corners.tolist(), strict=True):
        image[top : top + BLOCK, left : left + BLOCK] = 255
    return images, (images[..., 0] > 0).to(torch.uint8)


def test_a_painted_block_stays_under_its_mask_through_1000_crops():
    images, mask = painted(1000)
    uniforms = torch.from_numpy(per_image_uniforms(keys(1000), seed=3, epoch=5, n=3))
    views, masks = augment(images, {"vein": mask, "contour": 1 - mask}, uniforms, CROP)
    assert views.shape == (1000, 3, CROP, CROP)
    assert masks["vein"].shape == (1000, 1, CROP, CROP)
    for channel in range(3):
        assert torch.equal(views[:, channel : channel + 1], masks["vein"])
    assert torch.equal(masks["contour"], 1 - masks["vein"])
    shown = masks["vein"].sum((1, 2, 3))
    assert (shown > 0).sum() > 700, "most blocks must still be in view, or the comparison says nothing"
    # The crop moves and mirrors: where a photograph is painted only on its left, both sides must turn up.
    middle = torch.zeros(1000, SIDE, SIDE, 3, dtype=torch.uint8)
    middle[:, :, : SIDE // 4] = 255
    turned, _ = augment(middle, {}, uniforms, CROP)
    on_right = turned[:, 0, 0, -1] > 0
    assert 0.3 < on_right.float().mean() < 0.7


def test_each_crop_is_the_very_window_that_its_numbers_say():
    images = torch.randint(0, 256, (6, SIDE, SIDE, 3), dtype=torch.uint8)
    uniforms = torch.tensor(
        [[0, 0, 0.9], [0.9999, 0.9999, 0.9], [0.5, 0.1, 0.9], [0, 0, 0.1], [0.3, 0.6, 0.1], [0.9999, 0, 0.2]]
    )
    views, _ = augment(images, {}, uniforms, CROP)
    for view, image, (y, x, mirror) in zip(views, images, uniforms.tolist(), strict=True):
        top, left = int(y * (SIDE - CROP + 1)), int(x * (SIDE - CROP + 1))
        window = image[top : top + CROP, left : left + CROP].permute(2, 0, 1).float() / 255
        assert torch.equal(view, window.flip(2) if mirror < 0.5 else window)


def test_every_offset_and_both_flips_are_equally_frequent():
    uniforms = per_image_uniforms(keys(20_000), seed=0, epoch=0, n=3)
    for column in uniforms.T:
        counts, _ = np.histogram(column, bins=17, range=(0, 1))
        expected = len(column) / 17
        assert ((counts - expected) ** 2 / expected).sum() < 45, "chi-squared with 16 degrees of freedom"
    assert np.abs(np.corrcoef(uniforms.T) - np.eye(3)).max() < 0.03


def test_rotation_turns_photograph_and_mask_together():
    images, mask = painted(200)
    uniforms = torch.from_numpy(per_image_uniforms(keys(200), seed=1, epoch=0, n=4))
    views, masks = augment(images, {"vein": mask}, uniforms, CROP, rotate=15.0)
    assert views.is_contiguous(memory_format=torch.channels_last)
    assert views.amax() <= 1
    # Bilinear against nearest: they may part at the very edge of the block, never inside.
    assert ((views[:, :1] > 0.5) != (masks["vein"] > 0.5)).float().mean() < 0.002
    assert (masks["vein"] > 0.5).float().mean() > 0.01
    straight, _ = augment(images, {}, uniforms, CROP)
    assert (views - straight).abs().mean() > 1e-4


def test_a_quarter_turn_is_exact():
    images = torch.randint(0, 256, (1, SIDE, SIDE, 3), dtype=torch.uint8)
    views, _ = augment(images, {}, torch.tensor([[0, 0, 0.9, 1.0]], dtype=torch.float64), SIDE, rotate=90.0)
    turned = (torch.rot90(images[0], dims=(0, 1)).permute(2, 0, 1).float() / 255)[None]
    assert torch.allclose(views, turned, atol=1e-4)


def test_uniforms_depend_on_the_image_and_not_on_its_batch():
    together = per_image_uniforms(keys(10), seed=7, epoch=2, n=3)
    assert np.array_equal(per_image_uniforms(keys(10)[::-1].copy(), 7, 2, 3)[::-1], together)
    assert np.array_equal(
        np.concatenate([per_image_uniforms(keys(4), 7, 2, 3), per_image_uniforms(keys(6, start=4), 7, 2, 3)]), together
    )
    assert not np.isclose(per_image_uniforms(keys(10), 7, 3, 3), together).any()
    assert not np.isclose(per_image_uniforms(keys(10), 8, 2, 3), together).any()
    assert not np.isclose(per_image_uniforms(keys(10), 2, 7, 3), together).any()
    assert np.array_equal(per_image_uniforms(keys(10), 7, 2, 9)[:, :3], together)
    assert len(np.unique(together)) == together.size
    assert per_image_uniforms(keys(0), 7, 2, 3).shape == (0, 3)


def test_the_same_numbers_on_every_machine():
    """Frozen: another value would silently change every published run."""
    assert image_key("leaf_0") == 0x5B09F58053C08D8
    assert per_image_uniforms(keys(1), seed=0, epoch=0, n=2).tolist() == [[0.9050937986735985, 0.8958783045274664]]


def test_views_of_one_image_do_not_depend_on_the_batch():
    images, mask = painted(8)
    uniforms = torch.from_numpy(per_image_uniforms(keys(8), 0, 1, 4))
    for rotate in (0.0, 15.0):
        whole, masks = augment(images, {"vein": mask}, uniforms, CROP, rotate)
        alone, alone_masks = augment(images[5:6], {"vein": mask[5:6]}, uniforms[5:6], CROP, rotate)
        assert torch.equal(whole[5:6], alone)
        assert torch.equal(masks["vein"][5:6], alone_masks["vein"])


def test_bytes_become_floats_between_0_and_1():
    images = torch.arange(256, dtype=torch.uint8).repeat(SIDE * SIDE * 3 * 2 // 256).view(2, SIDE, SIDE, 3)
    views = [
        augment(images, {"vein": torch.ones(2, SIDE, SIDE, dtype=torch.bool)}, torch.zeros(2, 3), CROP)[0],
        eval_view(images, CROP),
    ]
    for view in views:
        assert view.dtype == torch.float32
        assert view.is_contiguous(memory_format=torch.channels_last)
        assert view.amin() == 0
        assert view.amax() == 1
        assert torch.equal((view * 255).round() / 255, view)


def test_the_test_view_is_the_middle():
    images = torch.randint(0, 256, (2, SIDE, SIDE, 3), dtype=torch.uint8)
    expected = images.permute(0, 3, 1, 2).float() / 255
    assert torch.equal(eval_view(images, SIDE), expected)
    assert torch.equal(eval_view(images, CROP), expected[:, :, 8:56, 8:56])


def test_a_crop_larger_than_the_photograph_is_refused():
    images = torch.zeros(1, SIDE, SIDE, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match="does not fit"):
        augment(images, {}, torch.zeros(1, 3), SIDE + 1)
    with pytest.raises(ValueError, match="does not fit"):
        eval_view(images, SIDE + 1)

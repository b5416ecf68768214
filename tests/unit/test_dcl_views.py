"""DCL's views and the targets of shuffled patches, against references in loops."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.unit.dcl_batches import SHUFFLES, views_batch
from ufgvc.methods import Batch
from ufgvc.methods.dcl import dcl_views, location_targets
from ufgvc.methods.layers.shuffle import Shuffle, jitter_order, match_patches, permute_patches, split_patches

# --- targets


def test_places_of_an_image_in_order_lie_evenly_around_0():
    law = location_targets(torch.arange(49)[None])[0]
    assert torch.allclose(law, torch.linspace(-24 / 49, 24 / 49, 49), atol=1e-7)
    assert law.abs().mean() == pytest.approx(0.2499, abs=5e-5)


@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize(("grid", "side"), [(7, 56), (7, 64), (4, 32)])
def test_a_shuffled_patch_is_labelled_with_its_origin(shuffle: Shuffle, grid: int, side: int):
    """Each patch is painted in its own number, which is then read off the shuffled image."""
    batch, n, step = views_batch(4, side, shuffle, grid), grid * grid, side // grid
    frame = (side - step * grid) // 2
    painted = batch.images.clone()
    for i in range(n):
        y, x = frame + i // grid * step, frame + i % grid * step
        painted[:, :, y : y + step, x : x + step] = i / n
    seen = dcl_views(replace(batch, images=painted), grid, shuffle, 2.0, "tracked")
    for row in range(8):
        for i in range(n):
            y, x = frame + i // grid * step, frame + i % grid * step
            origin = round(float(seen.images[row, 0, y, x]) * n)
            assert seen.extra["location"][row, i].item() == pytest.approx((origin - n // 2) / n, abs=1e-6)
            assert row >= 4 or origin == i
    assert not torch.equal(seen.extra["location"][:4], seen.extra["location"][4:])


def reference_match(patches: np.ndarray, shuffled: np.ndarray) -> list[int]:
    """For each patch now there, the first of the original ones whose sum of channel means is nearest."""

    def brightness(patch: np.ndarray) -> float:
        return sum(math.fsum(channel.flatten().tolist()) / channel.size for channel in patch)

    known = [brightness(patch) for patch in patches]
    found = []
    for patch in shuffled:
        distances = [abs(brightness(patch) - other) for other in known]
        found.append(distances.index(min(distances)))
    return found


def test_matching_by_brightness_finds_the_origin_in_noise_only():
    batch = views_batch(3, 56)
    tracked, matched = (dcl_views(batch, 7, "jitter", 2.0, how).extra["location"] for how in ("tracked", "matched"))
    assert torch.equal(tracked, matched)

    leaf = torch.ones_like(batch.images)
    leaf[:, :, 16:40, 16:40] = batch.images[:, :, 16:40, 16:40]  # 3 x 3 patches of leaf on a plain ground
    tracked, matched = (
        dcl_views(replace(batch, images=leaf), 7, "jitter", 2.0, how).extra["location"]
        for how in ("tracked", "matched")
    )
    assert not torch.equal(tracked, matched)
    order = jitter_order(batch.uniforms, 7, 2.0)
    patches = split_patches(leaf, 7)
    shuffled = permute_patches(patches, order)
    expected = [reference_match(a, b) for a, b in zip(patches.double().numpy(), shuffled.double().numpy(), strict=True)]
    assert match_patches(patches, shuffled).tolist() == expected
    assert torch.allclose(matched[3:], (torch.tensor(expected) - 24) / 49.0)
    assert (torch.tensor(expected) == 0).sum() == 3 * 40, "every patch of the ground counts as the first"


# --- views


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_views_are_the_originals_and_then_the_shuffled(shuffle: Shuffle):
    batch = replace(views_batch(3, 56, shuffle), extra={"kept": torch.arange(3)})
    state = torch.get_rng_state()
    seen = dcl_views(batch, 7, shuffle, 2.0, "tracked")
    assert torch.equal(torch.get_rng_state(), state), "random numbers come from the batch only"
    assert seen.images.shape == (6, 3, 56, 56)
    assert seen.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(seen.images[:3], batch.images)
    assert torch.equal(seen.images[3:].flatten(2).sort().values, batch.images.flatten(2).sort().values)
    assert all(not torch.equal(seen.images[i], seen.images[3 + i]) for i in range(3))
    assert seen.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert seen.extra["shuffled"].tolist() == [False] * 3 + [True] * 3
    assert seen.extra["kept"].tolist() == [0, 1, 2, 0, 1, 2]
    assert torch.equal(seen.masks["vein"], torch.cat([batch.masks["vein"]] * 2))
    assert seen.has_mask["vein"].tolist() == [True, False, True] * 2
    assert torch.equal(seen.uniforms, batch.uniforms)


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_an_images_views_do_not_depend_on_its_company(shuffle: Shuffle):
    batch = views_batch(3, 56, shuffle)
    seen = dcl_views(batch, 7, shuffle, 2.0, "tracked")
    alone = dcl_views(
        Batch(batch.images[1:2], batch.labels[1:2], uniforms=batch.uniforms[1:2]), 7, shuffle, 2.0, "tracked"
    )
    assert torch.equal(alone.images, seen.images[[1, 4]])
    assert torch.equal(alone.extra["location"], seen.extra["location"][[1, 4]])

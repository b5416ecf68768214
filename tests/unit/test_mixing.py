"""Colour jitter and CutMix: their formulas, and that an image's view depends on neither batch nor rank."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as vision

from ufgvc.core.errors import UserError
from ufgvc.data.cache import CachedSource, DecodedSplit
from ufgvc.data.mixing import (
    LARGEST_SHARE,
    choose_partners,
    jitter_colours,
    paste_rectangles,
    rectangles,
    soften_labels,
)
from ufgvc.methods import Batch, build
from ufgvc.training import sources
from ufgvc.training.ddp import Ranks
from ufgvc.training.loader import BatchLoader
from ufgvc.training.settings import TrainSettings, apply_overrides

CPU = torch.device("cpu")
LEAVES, SIDE, CROP, CLASSES = 12, 40, 32, 4


def uniforms(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_colour_jitter_is_that_of_torchvision() -> None:
    images, numbers = torch.rand(6, 3, 8, 8), uniforms(6, 3)
    changed = jitter_colours(images, numbers, 0.4)
    for image, found, row in zip(images, changed, numbers.tolist(), strict=True):
        brightness, contrast, saturation = (1 - 0.4 + 0.8 * each for each in row)
        expected = vision.adjust_brightness(image, brightness)
        expected = vision.adjust_contrast(expected, contrast)
        assert torch.allclose(found, vision.adjust_saturation(expected, saturation), atol=1e-5)
    assert torch.equal(jitter_colours(images, torch.full((6, 3), 0.5), 0.4), images)


def test_rectangles_by_a_loop() -> None:
    side, numbers = 50, uniforms(500, 5)
    images, others = torch.zeros(500, 1, side, side), torch.ones(500, 1, side, side)
    edges, share = rectangles(numbers.numpy(), side)
    pasted = paste_rectangles(images, others, torch.from_numpy(edges))
    for row, (_, _, size, y, x) in enumerate(numbers[:40].tolist()):
        half = math.sqrt(size * LARGEST_SHARE) * side / 2
        for down in range(side):
            for right in range(side):
                inside = all(
                    max(0, round(centre * side - half)) <= place < min(side, round(centre * side + half))
                    for place, centre in ((down, y), (right, x))
                )
                assert bool(pasted[row, 0, down, right]) == inside
    assert torch.allclose(pasted.mean(dim=(1, 2, 3)), torch.from_numpy(share).float())
    assert 0 <= share.min() < share.max() <= 0.52
    places, partners = choose_partners(numbers.numpy(), 0.3, 7)
    assert places.tolist() == [row for row in range(500) if numbers[row, 0] < 0.3]
    assert partners.tolist() == [int(numbers[row, 1] * 7) for row in places.tolist()]


def make_loader(rank: int = 0, world: int = 1, batch: int = 6, held: int = 2) -> BatchLoader:
    """On painted leaves, the last two of which are held out: leaf n is n / 12 bright, and leaf 3 has no mask."""
    settings = TrainSettings(recipe="modern", resize=SIDE, crop=CROP, batch_size=batch)
    recipe = apply_overrides(build("resnet50", CLASSES, backbone="resnet18").recipe, settings)
    recipe = recipe.model_copy(update={"colour_jitter": 0.0, "rotate": 0.0, "cutmix": 0.8})
    bright = (np.arange(LEAVES) * 255 // LEAVES).astype(np.uint8)
    images = np.broadcast_to(bright[:, None, None, None], (LEAVES, SIDE, SIDE, 3)).copy()
    bits = np.zeros((LEAVES, SIDE, SIDE // 8), np.uint8)
    bits[::2] = 255  # the whole image of leaves with even numbers
    data = DecodedSplit(images, {"vein": bits}, {"vein": np.arange(LEAVES) != 3})
    labels, train = np.arange(LEAVES, dtype=np.int64) % CLASSES, np.arange(LEAVES - held)
    source = CachedSource(data, labels, train, batch, 0, rank, world, CPU)
    config: Any = type("Config", (), {"seed": 4})
    rest = (train, labels[train], [None] * len(train), 0, None, np.arange(0), labels, CPU, 0, CLASSES)
    return BatchLoader(config, recipe, source, np.arange(LEAVES, dtype=np.uint64), *rest)


def epoch_of(loader: BatchLoader, epoch: int = 0) -> dict[int, tuple[torch.Tensor, ...]]:
    found = {}
    for raw in loader.source.epoch(epoch):
        batch = loader.augment(raw, epoch)
        assert batch.targets is not None
        for row, position in enumerate(raw.positions.tolist()):
            found[position] = (
                batch.images[row],
                batch.masks["vein"][row],
                batch.has_mask["vein"][row],
                batch.targets[row],
                batch.labels[row],
            )
    return found


def test_a_mixed_image_depends_on_neither_batch_nor_rank() -> None:
    whole = epoch_of(make_loader())
    parts = epoch_of(make_loader(0, 2, batch=10)) | epoch_of(make_loader(1, 2, batch=10))
    assert whole.keys() == parts.keys() == set(range(LEAVES - 2))
    for position, tensors in whole.items():
        assert all(torch.equal(one, other) for one, other in zip(tensors, parts[position], strict=True))
    others = epoch_of(make_loader(), 1)
    assert any(not torch.equal(whole[leaf][0], others[leaf][0]) for leaf in whole)


def test_pixels_masks_and_labels_are_mixed_alike() -> None:
    mixed = 0
    for epoch in range(8):
        for leaf, (image, mask, has_mask, targets, label) in epoch_of(make_loader(), epoch).items():
            seen = (image[0] * LEAVES).round().int()  # of which leaf each pixel is
            (other,) = set(seen.unique().tolist()) - {leaf} or {leaf}
            assert other < LEAVES - 2, "held-out leaves are in no training image"
            share = float((seen == other).float().mean()) if other != leaf else 0.0
            mixed += other != leaf
            assert torch.equal(mask[0], (seen % 2 == 0).float())
            expected = [
                0.9 * ((1 - share) * (leaf % CLASSES == each) + share * (other % CLASSES == each)) + 0.1 / CLASSES
                for each in range(CLASSES)
            ]
            assert targets.tolist() == pytest.approx(expected, abs=1e-5)
            assert targets.argmax() == label == leaf % CLASSES
            if 3 in (leaf, other):
                assert not has_mask
    assert 30 < mixed < 75, "of 80 images"


def test_published_images_are_not_mixed() -> None:
    loader = make_loader()
    published = replace(loader, recipe=build("resnet50", CLASSES).recipe.model_copy(update={"resize": 40, "crop": 32}))
    batch: Batch = next(published.training(0))
    assert batch.targets is None
    assert batch.class_targets is batch.labels


def test_images_that_are_streamed_cannot_be_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "choose_cache", lambda *_: "none")
    loader = make_loader()
    config: Any = type(
        "Config", (), {"seed": 4, "mask_kind": None, "cache_folder": ".", "train": TrainSettings(cache="none")}
    )
    with pytest.raises(UserError, match="CutMix needs the decoded images") as caught:
        sources._source(config, loader.recipe, None, loader.val_labels, loader.train_indices, Ranks(0, 1, CPU))
    assert "--train.cache host" in str(caught.value.fix)


def test_a_label_of_two_images() -> None:
    both = soften_labels(torch.tensor([1]), 3, 0.0) * 0.75 + soften_labels(torch.tensor([2]), 3, 0.0) * 0.25
    assert both.tolist() == [[0.0, 0.75, 0.25]]

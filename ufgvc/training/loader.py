"""A rank's batches: which images of the split it gets, where they are cached, and their augmentation on the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ufgvc.data.augment import (
    augment,
    crop_resident,
    eval_view,
    per_image_uniforms,
    place_crops,
    to_float,
)
from ufgvc.data.cache import CachedSource, DecodedSplit
from ufgvc.data.crops import crop_images, crop_masks, unpack
from ufgvc.data.mixing import (
    COLOUR_UNIFORMS,
    CUTMIX_UNIFORMS,
    choose_partners,
    jitter_colours,
    mix,
    rectangles,
    soften_labels,
)
from ufgvc.data.stream import BatchSource, RawBatch
from ufgvc.data.transfer import to_device
from ufgvc.methods.method import Batch
from ufgvc.methods.recipe import Recipe
from ufgvc.runtime.tasks import map_in_threads
from ufgvc.training.settings import WorkerConfig

Ints = NDArray[np.int64]
# Images (B, crop, crop, 3) and masks (B, 1, crop, crop) of 0 and 1 by region, uint8.
Cropped = tuple[NDArray[np.uint8], dict[str, NDArray[np.uint8]]]
EVAL_BATCH = 64
# Random numbers of an image, in their order: crop (2), flip and rotation; the method's; area and ratio of crops of
# random size; colours; CutMix.
UNIFORMS = {"crop": 4, "method": 0, "size": 2, "colour": COLOUR_UNIFORMS, "cutmix": CUTMIX_UNIFORMS}


def eval_batch(side: int, device: torch.device) -> int:
    """Images in a forward pass without gradients: EVAL_BATCH on a GPU, and on a CPU as many pixels as EVAL_BATCH images
    of 224 px. There, more take gigabytes and no less time.

    side: of the images in pixels.
    """
    if device.type != "cpu":
        return EVAL_BATCH
    return max(1, EVAL_BATCH * 224**2 // max(side, 224) ** 2)


@dataclass(frozen=True)
class BatchLoader:
    """The training and validation batches of one rank.

    keys: hashes of the training images' ids, which seed their random numbers.  num_val: images over all ranks.
    train_indices: rows of the split that are trained on, over all ranks.  train_labels, train_groups: of these rows.
    val_images: the decoded split with the validation images; None without validation.  val_indices: this rank's images
    in it.  val_labels: labels of that whole split.  num_uniforms: see `Method`.  num_classes: for softened labels.
    """

    config: WorkerConfig
    recipe: Recipe
    source: BatchSource
    keys: NDArray[np.uint64]
    train_indices: Ints
    train_labels: Ints
    train_groups: Sequence[str | None]
    num_val: int
    val_images: DecodedSplit | None
    val_indices: Ints
    val_labels: Ints
    device: torch.device
    num_uniforms: int = 0
    num_classes: int = 0

    @property
    def num_train(self) -> int:
        """Training images over all ranks."""
        return len(self.train_indices)

    @property
    def resident(self) -> bool:
        """Whether the decoded images are in the device's memory."""
        return isinstance(self.source, CachedSource) and self.source.resident is not None

    def training(self, epoch: int) -> Iterator[Batch]:
        """This rank's augmented batches of an epoch; the same number on every rank. A thread makes one ahead."""
        source = self.source.epoch(epoch)
        if self.resident:  # nothing is left to do on the host
            yield from (self.augment(raw, epoch) for raw in source)
        else:
            made = map_in_threads(lambda raw: (raw, self.crop_on_host(raw, epoch)), source, threads=1)
            yield from (self.augment(raw, epoch, cropped) for raw, cropped in made)

    def augment(self, raw: RawBatch, epoch: int, cropped: Cropped | None = None) -> Batch:
        """The training batch of decoded images: all that is random depends on (seed, epoch, image) only.

        cropped: of `crop_on_host`, if it was called before.
        """
        uniforms = self._uniforms(raw.positions, epoch)
        images, masks = self._view(raw, uniforms, cropped or self.crop_on_host(raw, epoch))
        labels, has_mask = raw.labels, dict(raw.has_mask)
        soft = self.recipe.label_smoothing or self.recipe.cutmix
        targets = soften_labels(labels, self.num_classes, self.recipe.label_smoothing) if soft else None
        if self.recipe.cutmix and targets is not None:
            images, masks, has_mask, targets = self._cutmix(images, masks, has_mask, targets, uniforms, epoch)
        return Batch(images, labels, masks, has_mask, targets, uniforms=torch.from_numpy(uniforms["method"]))

    def _uniforms(self, positions: Ints, epoch: int) -> dict[str, NDArray[np.float64]]:
        """Random numbers (B, n) of images; those that only modern recipes need come last and so change no other."""
        counts = UNIFORMS | {"method": self.num_uniforms}
        uniforms = per_image_uniforms(self.keys[positions], self.config.seed, epoch, sum(counts.values()))
        parts = np.split(uniforms, np.cumsum(list(counts.values()))[:-1], axis=1)
        return dict(zip(counts, parts, strict=True))

    def _view(
        self, raw: RawBatch, uniforms: Mapping[str, NDArray[np.float64]], cropped: Cropped | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        recipe = self.recipe
        if cropped is not None:
            pixels, bits = cropped
            images = to_float(to_device(torch.from_numpy(pixels), self.device))
            masks = {region: to_device(torch.from_numpy(mask), self.device) for region, mask in bits.items()}
        elif isinstance(raw.held_images, Tensor) and isinstance(raw.rows, Tensor) and not self._resamples:
            places = place_crops(uniforms["crop"], recipe.crop, recipe.resize)
            compiled = self.config.train.compile and self.device.type == "cuda"
            images, masks = crop_resident(raw.held_images, raw.held_masks, raw.rows, places, recipe.crop, compiled)
        else:
            masks = {region: unpack(bits, recipe.resize) for region, bits in raw.packed_masks.items()}
            geometry = torch.from_numpy(np.concatenate([uniforms["crop"], uniforms["size"]], axis=1))
            images, masks = augment(raw.images, masks, geometry, recipe.crop, recipe.rotate, recipe.crop_scale)
        if recipe.colour_jitter:
            images = jitter_colours(images, torch.from_numpy(uniforms["colour"]), recipe.colour_jitter)
        return images, masks

    @property
    def _resamples(self) -> bool:
        """Whether `augment` turns or resizes the crops."""
        return bool(self.recipe.rotate) or self.recipe.crop_scale is not None

    def crop_on_host(self, raw: RawBatch, epoch: int) -> Cropped | None:
        """The bytes that go to the device; None if they are there, or if `augment` has to turn or resize the crops."""
        recipe, side = self.recipe, self.recipe.crop
        if not isinstance(raw.held_images, np.ndarray) or self._resamples:
            return None
        places = place_crops(self._uniforms(raw.positions, epoch)["crop"], side, recipe.resize)
        crops = [(row, *place) for row, place in zip(raw.rows.tolist(), places, strict=True)]
        images = crop_images(raw.held_images, crops, side)
        masks = {region: crop_masks(np.asarray(bits), crops, side) for region, bits in raw.held_masks.items()}
        return images, {region: mask[:, None] for region, mask in masks.items()}

    def _cutmix(
        self,
        images: Tensor,
        masks: dict[str, Tensor],
        has_mask: dict[str, Tensor],
        targets: Tensor,
        uniforms: Mapping[str, NDArray[np.float64]],
        epoch: int,
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor], Tensor]:
        """Pastes rectangles of other training images, as these look in this epoch, and mixes masks and targets alike.

        An image has a mask after it if both had one.
        """
        assert isinstance(self.source, CachedSource)
        rows, chosen = choose_partners(uniforms["cutmix"], self.recipe.cutmix, self.num_train)
        if len(rows) == 0:
            return images, masks, has_mask, targets
        partners = self.source.gather(self.train_indices[chosen])
        edges, share = rectangles(uniforms["cutmix"][rows], self.recipe.crop)
        at, where = (to_device(torch.from_numpy(each), self.device) for each in (rows, edges))
        uniforms_of_others = self._uniforms(partners.positions, epoch)
        others = self._view(partners, uniforms_of_others, self.crop_on_host(partners, epoch))
        images, masks = mix(images, masks, others, at, where)
        has_mask = {
            region: has.index_copy(0, at, has[at] & partners.has_mask[region]) for region, has in has_mask.items()
        }
        other = soften_labels(partners.labels, self.num_classes, self.recipe.label_smoothing)
        part = to_device(torch.from_numpy(share).float()[:, None], self.device)
        mixed = targets[at] * (1 - part) + other * part
        return images, masks, has_mask, targets.index_copy(0, at, mixed)

    def validation(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's validation images (B, 3, crop, crop) in [0, 1] and labels (B,), B <= EVAL_BATCH."""
        assert self.val_images is not None
        for start in range(0, len(self.val_indices), EVAL_BATCH):
            at = self.val_indices[start : start + EVAL_BATCH]
            images = to_device(torch.from_numpy(self.val_images.images[at]), self.device)
            yield eval_view(images, self.recipe.crop), to_device(torch.from_numpy(self.val_labels[at]), self.device)

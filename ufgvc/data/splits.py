"""Stratified splits that keep the images of a plant together: train/test, holdout and k-fold."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ufgvc.core.errors import UserError
from ufgvc.data.readers.photos import NO_GROUP, NO_SPLIT, Photos, text_hashes
from ufgvc.data.readers.photos import SPLIT_NAMES as SPLITS

if TYPE_CHECKING:
    from ufgvc.data.dataset import Dataset

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class HeldFold:
    """A fold that a training never reads, so that it can be scored afterwards.

    folds, fold, seed: see `kfold_indices`; another seed is another partition.
    split: what is divided: "train", or "all", the leaves of all splits (see `pool_splits`).
    """

    folds: int
    fold: int
    seed: int
    split: Literal["train", "all"]

    def indices(self, labels: Ints, groups: Sequence[str | None]) -> tuple[Ints, Ints]:
        """(other images, images of the fold). Arguments and errors as for `kfold_indices`.

        Of the training split a label with a single group is in no fold: it is always trained on.
        """
        return kfold_indices(labels, groups, self.folds, self.fold, self.seed, keep_single=self.split == "train")


def pool_splits(dataset: Dataset) -> Dataset:
    """The data set with a single split "all": its images, in the same files, in the order of the shards."""
    shards = tuple(replace(shard, split="all") for shard in dataset.shards)
    return replace(dataset, shards=shards, counts={"all": sum(dataset.counts.values())})


def count_groups(labels: Ints, groups: Sequence[str | None], num_classes: int) -> Ints:
    """(num_classes,) groups (plants) of each label; an image without a group counts as one."""
    units = {
        (int(label), index if group is None else group)
        for index, (label, group) in enumerate(zip(labels, groups, strict=True))
    }
    return np.bincount([label for label, _ in units], minlength=num_classes)


def assign_splits(photos: Photos, test_share: float, seed: int) -> None:
    """Sets the split of every photo that has none to train or test, stratified by label and grouped by plant.

    test_share: share of each cultivar's photos that become test, in (0, 1). The result depends on the seed and the
    names, not on the order of `photos`. A cultivar with at least two plants (or photos without a plant) gets at least
    one of them on each side; a cultivar with a single one goes to train.
    """
    rows = np.flatnonzero(photos.splits == NO_SPLIT)
    units, labels, hashes = _units(photos, rows, seed)
    order = np.lexsort((hashes[:, 1], hashes[:, 0], labels))
    sizes = np.bincount(units, minlength=len(labels))
    is_test = np.zeros(len(labels), bool)
    bounds = np.flatnonzero(np.diff(labels[order], prepend=-1, append=-1))
    for start, stop in pairwise(bounds.tolist()):
        own = order[start:stop]
        is_test[own] = _choose_test(sizes[own], test_share)
    photos.splits[rows] = np.where(is_test[units], SPLITS.index("test"), SPLITS.index("train"))


def _units(photos: Photos, rows: Ints, seed: int) -> tuple[Ints, Ints, NDArray[np.uint64]]:
    """What is never divided, a plant or a photo without one: of each of the rows the unit, and of each unit its
    smallest label and a hash (2,) of its name and the seed."""
    named = np.array([bool(name) for name in photos.group_names], bool)
    groups = photos.groups[rows]
    grouped = np.zeros(len(rows), bool)
    grouped[groups != NO_GROUP] = named[groups[groups != NO_GROUP]]
    plants, units = np.unique(groups[grouped], return_inverse=True)
    alone = rows[~grouped]
    count = len(plants) + len(alone)
    unit_of = np.empty(len(rows), np.int64)
    unit_of[grouped], unit_of[~grouped] = units, np.arange(len(plants), count)
    labels = np.full(count, np.iinfo(np.int32).max, np.int64)
    np.minimum.at(labels, unit_of, photos.labels[rows])
    hashes = np.empty((count, 2), np.uint64)
    texts = (photos.group_names[plant] for plant in plants.tolist())
    hashes[: len(plants)] = text_hashes(texts, len(plants), lambda name: _order_key(seed, ("group", name)))
    hashes[len(plants) :] = text_hashes(photos.ids(alone), len(alone), lambda name: _order_key(seed, ("photo", name)))
    return unit_of, labels, hashes


def _choose_test(sizes: Ints, test_share: float) -> NDArray[np.bool_]:
    """Which units of a cultivar become test.  sizes: photos of each, in their order."""
    chosen = np.zeros(len(sizes), bool)
    if len(sizes) == 1:
        return chosen
    target, taken = test_share * int(sizes.sum()), 0
    for place, size in enumerate(sizes):
        # A plant goes to test if that brings the count nearer to the target.
        if taken + size / 2 <= target:
            chosen[place] = True
            taken += int(size)
    if chosen.all() or not chosen.any():
        chosen[sizes.argmin()] ^= True
    return chosen


def _order_key(seed: int, key: tuple[str, str]) -> bytes:
    return hashlib.blake2b(f"{seed}\0{key[0]}\0{key[1]}".encode(), digest_size=16).digest()


def kfold_indices(
    labels: Ints, groups: Sequence[str | None], folds: int, fold: int, seed: int, keep_single: bool = False
) -> tuple[Ints, Ints]:
    """(training, validation) indices of one of `folds` folds, stratified by label; a group (plant) is never divided.

    labels: (N,).  groups: N names; None is a group of its own.  fold: 0 to folds - 1.
    UserError if a label has a single group, because nothing of it could be held out; with keep_single its images are
    for training in every fold.
    """
    numbers = assign_folds(labels, groups, folds, seed)
    if not keep_single and (numbers < 0).any():
        raise UserError(
            f"the cultivar with label {labels[numbers < 0].min()} has one training leaf (or one group of leaves): "
            "nothing of it can be held out",
            where="train.validation",
            fix="use `--train.validation last`",
        )
    return np.flatnonzero(numbers != fold), np.flatnonzero(numbers == fold)


def assign_folds(labels: Ints, groups: Sequence[str | None], folds: int, seed: int) -> Ints:
    """The fold (N,) of each image, 0 to folds - 1, or -1 if its label has a single group: nothing can be held out.

    Arguments as for `kfold_indices`.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, folds]))
    units = np.array([f"group {group}" if group is not None else f"leaf {index}" for index, group in enumerate(groups)])
    numbers = np.empty(len(labels), np.int64)
    number: dict[str, int] = {}  # also of groups with several labels, which stay in the fold that the first one gave
    for label in np.unique(labels):
        at = np.flatnonzero(labels == label)
        names = rng.permutation(np.unique(units[at]))
        if len(names) < 2:
            number |= dict.fromkeys(names, -1)
        number = {name: index % min(folds, len(names)) for index, name in enumerate(names)} | number
        numbers[at] = [number[unit] for unit in units[at]]
    return numbers


def holdout_indices(labels: Ints, groups: Sequence[str | None], share: float, seed: int) -> tuple[Ints, Ints]:
    """(training, validation) indices: about `share` (at most half) of each label's images are held out.

    Arguments and errors as for `kfold_indices`.
    """
    return kfold_indices(labels, groups, max(2, round(1 / share)), 0, seed)

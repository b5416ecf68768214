"""Which images of the split a rank trains on and holds out, and where they come from: Ray Data, or a cache of decoded
images on the host or the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from ufgvc.core.errors import UserError
from ufgvc.data.augment import image_key
from ufgvc.data.cache import CachedSource, choose_cache, copy_to_device, decoded_size, load_decoded_split
from ufgvc.data.dataset import Dataset, read_index
from ufgvc.data.splits import holdout_indices, kfold_indices
from ufgvc.data.stream import BatchSource, StreamedSource
from ufgvc.methods.recipe import Recipe
from ufgvc.training.ddp import Ranks
from ufgvc.training.loader import BatchLoader, Ints
from ufgvc.training.memory import enough_memory
from ufgvc.training.settings import WorkerConfig


def split_indices(config: WorkerConfig, labels: Ints, groups: Sequence[str | None]) -> tuple[Ints, Ints]:
    """Indices into `config.split`: images to train on, and images held out (none for `last` and `test`). Those of
    `config.held_fold` are in neither.

    labels: (N,).  groups: N names; images with the same name are never separated; None: no group.
    """
    rows = np.arange(len(labels))
    if config.held_fold is not None:
        rows, _ = config.held_fold.indices(labels, groups)
    train, held = _validation_indices(config, labels[rows], [groups[row] for row in rows.tolist()])
    return rows[train], rows[held]


def _validation_indices(config: WorkerConfig, labels: Ints, groups: Sequence[str | None]) -> tuple[Ints, Ints]:
    train, seed = config.train, config.seed if config.split_seed is None else config.split_seed
    if train.validation == "holdout":
        return holdout_indices(labels, groups, train.holdout, seed)
    if train.validation == "kfold":
        return kfold_indices(labels, groups, train.folds, train.fold or 0, seed)
    everything = np.arange(len(labels))
    return everything, everything[:0]


def make_loader(
    config: WorkerConfig, recipe: Recipe, dataset: Dataset, index: pa.Table, ranks: Ranks, num_uniforms: int = 0
) -> BatchLoader:
    """The loader of one rank.  UserError if the cache does not fit into GPU memory.

    dataset: of `config.open_dataset`.  index: of its split `config.split`.
    """
    labels = index["label"].to_numpy().astype(np.int64)
    groups = index["group"].to_pylist()
    train, val = split_indices(config, labels, groups)
    split, val_labels = config.split, labels
    if config.train.validation == "test":
        split = "test"
        val_labels = read_index(dataset, "test")["label"].to_numpy().astype(np.int64)
        val = np.arange(len(val_labels))
    val_images = None
    if len(val):
        val_images = load_decoded_split(dataset, split, recipe.eval_resize, None, None, Path(config.cache_folder))
    source = _source(config, recipe, dataset, labels, train, ranks)
    keys = np.array([image_key(name) for name in index["image_id"].to_pylist()], np.uint64)
    own = val[ranks.rank * len(val) // ranks.world_size : (ranks.rank + 1) * len(val) // ranks.world_size]
    return BatchLoader(
        config,
        recipe,
        source,
        keys,
        train_indices=train,
        train_labels=labels[train],
        train_groups=[groups[row] for row in train],
        num_val=len(val),
        val_images=val_images,
        val_indices=own,
        val_labels=val_labels,
        device=ranks.device,
        num_uniforms=num_uniforms,
        num_classes=len(dataset.classes),
    )


def _source(
    config: WorkerConfig, recipe: Recipe, dataset: Dataset, labels: Ints, train: Ints, ranks: Ranks
) -> BatchSource:
    """Where the training images come from: Ray Data, or a cache of decoded images on the host or the device.

    A classifier that is fitted to embeddings reads photographs once at most, so `auto` caches none of them.
    """
    num_masks = len(dataset.regions) if config.mask_kind else 0
    device, folder = ranks.device, Path(config.cache_folder)
    common = (labels, train, recipe.batch_size, config.seed, ranks.rank, ranks.world_size, device)
    if recipe.classifier_fit and not num_masks and config.train.cache == "auto":
        where = "none"
    else:
        where = choose_cache(config.train.cache, len(labels), recipe.resize, num_masks, device, folder)
    if where == "none" and recipe.cutmix:
        what = (
            "CutMix needs the decoded images at hand, which are streamed here: on a disk that is too small, or as set"
        )
        raise UserError(what, where="train.cache", fix="use `--train.cache host`, or `--train.recipe published`")
    if where == "none":
        cpus = config.train.cpus_per_worker
        return StreamedSource(dataset, config.mask_kind, recipe.resize, *common, split=config.split, rank_cpus=cpus)
    data = load_decoded_split(dataset, config.split, recipe.resize, config.mask_kind, config.mask_fingerprint, folder)
    resident = None
    if where == "device":
        gib = decoded_size(len(labels), recipe.resize, num_masks) / 2**30
        with enough_memory(f"the cache of {gib:.1f} GiB", "train.cache", "use `--train.cache host`", device):
            resident = copy_to_device(data, labels, device)
    return CachedSource(data, *common, resident)

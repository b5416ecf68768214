"""From decoded rows to the batches that a step takes: which leaves, from where, cropped and flipped on the device."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from ufgvc.data.augment import augment, eval_view, image_key, per_image_uniforms
from ufgvc.data.cache import CachedSource, DecodedSplit, copy_to_device, decoded_size, load_decoded_split
from ufgvc.data.dataset import Dataset, read_index
from ufgvc.data.splits import holdout_indices, kfold_indices
from ufgvc.data.stream import BatchSource, RawBatch, StreamedSource
from ufgvc.data.transfer import to_device
from ufgvc.methods.method import Batch
from ufgvc.methods.recipe import Recipe
from ufgvc.training.memory import enough_memory

Ints = NDArray[np.int64]
EVAL_BATCH = 64
OWN_CHANCES = 4  # crop, mirror and rotation


@dataclass(frozen=True)
class WorkerConfig:
    """Everything a worker needs, in plain values.  recipe: a Recipe as JSON, with the user's changes in it.

    split_seed: of what is held out, if not `seed`.  marks: Unix times of the command's start (core/startup.py); none: not recorded.
    """

    data: str
    run: str
    method: str
    options: Mapping[str, Any]
    init: str
    seed: int
    recipe: Mapping[str, Any]
    mask_kind: str | None
    mask_fingerprint: str | None
    validation: str
    holdout: float
    folds: int
    fold: int
    precision: Literal["auto", "fp32", "bf16"]
    compile: bool
    sync_batchnorm: bool
    cache: str
    cache_folder: str
    checkpoint_seconds: float
    cores: int
    run_id: str | None = None
    split_seed: int | None = None
    marks: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class BatchLoader:
    """One rank's data.  learn, hold: leaves learnt from and leaves that choose the epoch, over all ranks."""

    plan: WorkerConfig
    recipe: Recipe
    source: BatchSource
    keys: NDArray[np.uint64]
    learn: int
    hold: int
    held: DecodedSplit | None
    held_at: Ints
    held_labels: Ints
    device: torch.device
    chances: int = 0

    @property
    def resident(self) -> bool:
        """Whether the decoded set lies in the device's memory."""
        return isinstance(self.source, CachedSource) and self.source.resident is not None

    def training(self, epoch: int) -> Iterator[Batch]:
        for raw in self.source.epoch(epoch):
            yield self.augment(raw, epoch)

    def augment(self, raw: RawBatch, epoch: int) -> Batch:
        """The batch that a step takes: crop, flip and rotation drawn for (seed, epoch, image)."""
        chance = per_image_uniforms(self.keys[raw.positions], self.plan.seed, epoch, OWN_CHANCES + self.chances)
        masks = {region: unpack(bits, self.recipe.resize) for region, bits in raw.packed_masks.items()}
        images, cropped = augment(
            raw.images, masks, torch.from_numpy(chance[:, :OWN_CHANCES]), self.recipe.crop, self.recipe.rotate
        )
        rest = torch.from_numpy(chance[:, OWN_CHANCES:])
        return Batch(images=images, labels=raw.labels, masks=cropped, has_mask=dict(raw.has_mask), chance=rest)

    def validation(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This rank's slice of the held-out leaves, as (images in [0, 1], labels)."""
        assert self.held is not None
        for start in range(0, len(self.held_at), EVAL_BATCH):
            at = self.held_at[start : start + EVAL_BATCH]
            images = to_device(torch.from_numpy(self.held.images[at]), self.device)
            yield eval_view(images, self.recipe.crop), to_device(torch.from_numpy(self.held_labels[at]), self.device)


def unpack(bits: Tensor, side: int) -> Tensor:
    """(B, R, ceil(R/8)) packed uint8, most significant bit first -> (B, R, R) uint8 of 0 and 1."""
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=bits.device)
    return ((bits.unsqueeze(-1) >> shifts) & 1).flatten(2)[..., :side]


def learnt_and_held(plan: WorkerConfig, labels: Ints, groups: Sequence[str | None]) -> tuple[Ints, Ints]:
    """Places in the training split that are learnt from, and those that are held out (none, unless the plan says so)."""
    seed = plan.seed if plan.split_seed is None else plan.split_seed
    if plan.validation == "holdout":
        return holdout_indices(labels, groups, plan.holdout, seed)
    if plan.validation == "kfold":
        return kfold_indices(labels, groups, plan.folds, plan.fold, seed)
    everything = np.arange(len(labels))
    return everything, everything[:0]


def make_loader(
    plan: WorkerConfig,
    recipe: Recipe,
    dataset: Dataset,
    index: pa.Table,
    rank: int,
    world: int,
    device: torch.device,
    chances: int = 0,
) -> BatchLoader:
    labels = index["label"].to_numpy().astype(np.int64)
    groups = index["group"].to_pylist()
    learn, hold = learnt_and_held(plan, labels, groups)
    split = "train"
    held_labels = labels
    if plan.validation == "test":
        split = "test"
        held_labels = read_index(dataset, "test")["label"].to_numpy().astype(np.int64)
        hold = np.arange(len(held_labels))
    held = None
    if len(hold):
        held = load_decoded_split(dataset, split, recipe.test_resize, None, None, Path(plan.cache_folder))
    source = _source(plan, recipe, dataset, labels, learn, rank, world, device)
    keys = np.array([image_key(name) for name in index["image_id"].to_pylist()], np.uint64)
    mine = hold[rank * len(hold) // world : (rank + 1) * len(hold) // world]
    return BatchLoader(plan, recipe, source, keys, len(learn), len(hold), held, mine, held_labels, device, chances)


def _source(
    plan: WorkerConfig,
    recipe: Recipe,
    dataset: Dataset,
    labels: Ints,
    learn: Ints,
    rank: int,
    world: int,
    device: torch.device,
) -> BatchSource:
    where = choose_cache(
        plan.cache, len(labels), recipe.resize, plan.mask_kind is not None, device, Path(plan.cache_folder)
    )
    if where == "none":
        return StreamedSource(
            dataset, plan.mask_kind, recipe.resize, labels, learn, recipe.batch_size, plan.seed, rank, world, device
        )
    data = load_decoded_split(
        dataset, "train", recipe.resize, plan.mask_kind, plan.mask_fingerprint, Path(plan.cache_folder)
    )
    resident = None
    if where == "device":
        gib = decoded_size(len(labels), recipe.resize, plan.mask_kind is not None) / 2**30
        with enough_memory(f"the cache of {gib:.1f} GiB", "train.cache", "use `--train.cache host`", device):
            resident = copy_to_device(data, labels, device)
    return CachedSource(data, labels, learn, recipe.batch_size, plan.seed, rank, world, device, resident)


def choose_cache(wish: str, rows: int, side: int, with_masks: bool, device: torch.device, folder: Path) -> str:
    """`auto` is "device" where a third of the free GPU memory holds the set, "host" where half of the free disk does, else "none"."""
    if wish != "auto":
        return wish
    need = decoded_size(rows, side, with_masks)
    if device.type == "cuda" and need < torch.cuda.mem_get_info(device)[0] / 3:
        return "device"
    folder.mkdir(parents=True, exist_ok=True)
    return "host" if need < shutil.disk_usage(folder).free / 2 else "none"

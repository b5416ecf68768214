"""Embeddings of the training images by a frozen network: from shards, which are made where they are missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ufgvc.data.augment import eval_view
from ufgvc.data.cache import CachedSource
from ufgvc.data.stream import Chunk, decode_in_threads
from ufgvc.methods.method import POOLED_FEATURES, Method
from ufgvc.training.ddp import Ranks
from ufgvc.training.embedding_shards import EmbeddingShards
from ufgvc.training.frozen import fastest_form
from ufgvc.training.loader import BatchLoader, eval_batch

Ints = NDArray[np.int64]
View = Callable[[Tensor], Tensor]  # (B, R, R, 3) uint8 -> (B, 3, crop, crop) float in [0, 1]


class Rows(Protocol):
    """Embeddings (M, V, D) float32: an array, or files of which the rows that are asked for are read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(M, V, D)."""

    def __getitem__(self, images: Ints, /) -> NDArray[np.float32]:
        """The rows (n, V, D) of some images (n,)."""


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of this rank's N training images.

    rows: (M, V, D) float32 of V views; of more images if files have them.  labels: (N,).  positions: (N,) in the split.
    places: (N,) of the images in `rows`; None: they are in the same order.
    """

    rows: Rows
    labels: Ints
    positions: Ints
    places: Ints | None = None

    def take(self, images: Ints) -> NDArray[np.float32]:
        """A copy of the rows (n, V, D) of some of the N images."""
        return np.asarray(self.rows[images if self.places is None else self.places[images]])


def embed_training_images(method: Method, loader: BatchLoader, ranks: Ranks) -> Embeddings:
    """The embeddings of this rank's training images and, if the recipe says `mirror`, of their mirror images.

    Rank r has the r-th of `world_size` even parts of the training images. Only the rows that are asked for are read
    from their shards. Shards that nobody has made before this process makes and stores, for every later training with
    the same network: other folds, seeds and ranks, and a training that was killed.
    """
    own = np.array_split(np.arange(loader.num_train), ranks.world_size)[ranks.rank]
    positions, shards = loader.train_indices[own], EmbeddingShards.of(loader.config, method)
    needed = shards.holding(positions)
    with shards.lock(f"{ranks.rank}-of-{ranks.world_size}"):  # other trainings wait; other ranks need other shards
        missing = shards.missing(needed)
        if missing:
            method = fastest_form(method, sum(map(len, shards.chunks)), ranks.device)
        for position, images in _decoded(loader, shards, missing):
            shards.write(position, embed_images(method, images, ranks.device))
        rows = shards.fetch(needed)
    return Embeddings(rows, loader.train_labels[own], positions, places=positions)


def _decoded(
    loader: BatchLoader, shards: EmbeddingShards, chunks: Sequence[Chunk]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """The first position of each chunk and its decoded images (n, R, R, 3): from the loader's cache if it has one, else
    by threads of this process, which for few images are sooner at work than tasks of Ray.
    """
    if isinstance(loader.source, CachedSource):
        for chunk in chunks:
            yield chunk.position, loader.source.data.images[chunk.position : chunk.position + len(chunk)]
        return
    for decoded in decode_in_threads(loader.config.open_dataset().store, chunks, shards.side):
        yield int(decoded["position"][0]), decoded["image"]


def embed_images(method: Method, images: NDArray[np.uint8], device: torch.device) -> NDArray[np.float32]:
    """The embeddings (N, V, D) of decoded images (N, R, R, 3), a few at a time."""
    size = eval_batch(method.recipe.crop, device)
    parts = (np.array(images[at : at + size]) for at in range(0, len(images), size))  # torch warns of read-only arrays
    batches = (torch.from_numpy(part).to(device) for part in parts)
    return np.concatenate(list(_embed(method, batches, device, partial(eval_view, size=method.recipe.crop))))


def embed_batches(method: Method, loader: BatchLoader, view: View) -> Embeddings:
    """The embeddings of this rank's training images as they come, in memory; nothing is written.

    view: of decoded images, as the network gets them.
    """
    labels, positions = [], []

    def batches() -> Iterator[Tensor]:
        for raw in loader.source.epoch(0):
            labels.append(raw.labels.cpu().numpy())
            positions.append(raw.positions)
            yield raw.images

    found = np.concatenate(list(_embed(method, batches(), loader.device, view)))
    return Embeddings(found, np.concatenate(labels), np.concatenate(positions))


def _embed(
    method: Method, batches: Iterable[Tensor], device: torch.device, view: View
) -> Iterator[NDArray[np.float32]]:
    """Embeddings (B, V, D) of batches of decoded images (B, R, R, 3) uint8 on the device."""
    net = method.net.eval()
    with torch.inference_mode(), torch.autocast(device.type, enabled=False):
        for batch in batches:
            images = view(batch)
            views = [images, images.flip(3)] if method.recipe.mirror else [images]
            found = [net(each) for each in views]  # an exported net calls them pooled features
            embedded = [outputs.get(POOLED_FEATURES, outputs.get("embedding")).float().cpu() for outputs in found]
            yield torch.stack(embedded, dim=1).numpy()

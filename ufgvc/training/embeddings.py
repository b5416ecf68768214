"""Embeddings of the training images by a frozen network, kept next to the decoded images."""

from __future__ import annotations

import hashlib
import itertools
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from ufgvc.core.config import short_key
from ufgvc.core.errors import disk_errors
from ufgvc.data.augment import eval_view
from ufgvc.data.cache import CachedSource, preallocate
from ufgvc.methods.method import Method
from ufgvc.training.loader import BatchLoader, eval_batch

Ints = NDArray[np.int64]
View = Callable[[Tensor], Tensor]  # (B, R, R, 3) uint8 -> (B, 3, crop, crop) float in [0, 1]
FORMULA = 1  # to be raised when the nets pool otherwise: files of older versions must not be found then


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of this rank's N training images.

    rows: (M, V, D) float32 of V views; of more images if a file has them.  labels: (N,).  positions: (N,) in the split.
    places: (N,) of the images in `rows`; None: they are in the same order.
    """

    rows: NDArray[np.float32]
    labels: Ints
    positions: Ints
    places: Ints | None = None

    def take(self, images: Ints) -> NDArray[np.float32]:
        """A copy of the rows (n, V, D) of some of the N images."""
        return np.asarray(self.rows[images if self.places is None else self.places[images]])


def embed_training_images(method: Method, loader: BatchLoader, device: torch.device) -> Embeddings:
    """The embeddings of this rank's training images and, if the recipe says `mirror`, of their mirror images.

    A process that trains alone from decoded images on disk embeds the whole split once, so that every fold and seed
    after it finds the file. Otherwise each rank embeds its own images as they come.
    """
    source = loader.source
    if isinstance(source, CachedSource) and source.world == 1 and isinstance(source.data.images, np.memmap):
        rows = _find_or_embed(method, source.data.images, device)
        return Embeddings(rows, loader.train_labels, loader.train_indices, places=loader.train_indices)
    return embed_batches(method, loader, partial(eval_view, size=method.recipe.crop))


def embed_batches(method: Method, loader: BatchLoader, view: View) -> Embeddings:
    """The embeddings of this rank's training images as they come, and of no others; nothing is written.

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


def _find_or_embed(method: Method, images: np.memmap, device: torch.device) -> NDArray[np.float32]:
    """Rows (N, V, D) of all decoded images (N, R, R, 3), from a file next to theirs if another process made it."""
    folder = Path(str(images.filename)).parent
    key = short_key([FORMULA, _digest(method), method.name, method.options, method.recipe.crop, method.recipe.mirror])
    target = folder.with_name(f"{folder.name}.embeddings-{key}.npy")
    with FileLock(target.with_name(f".{target.name}.lock")):
        if not target.exists():
            size = eval_batch(method.recipe.crop, device)
            batches = (
                torch.from_numpy(np.array(images[at : at + size])).to(device) for at in range(0, len(images), size)
            )
            with disk_errors(target), tempfile.TemporaryDirectory(dir=target.parent) as building:
                part = Path(building) / target.name
                _write(part, len(images), _embed(method, batches, device, partial(eval_view, size=method.recipe.crop)))
                os.replace(part, target)
    return np.load(target, mmap_mode="r")


def _write(path: Path, count: int, batches: Iterator[NDArray[np.float32]]) -> None:
    """Writes batches (B, V, D) of `count` rows in all as one .npy file, without holding them in memory."""
    at, file = 0, None
    for batch in batches:
        if file is None:
            file = np.lib.format.open_memmap(path, "w+", np.float32, (count, *batch.shape[1:]))
            preallocate(path)
        file[at : at + len(batch)] = batch
        at += len(batch)
    if file is None or at != count:
        raise RuntimeError(f"embedded {at} of {count} images")
    file.flush()


def _embed(
    method: Method, batches: Iterable[Tensor], device: torch.device, view: View
) -> Iterator[NDArray[np.float32]]:
    """Embeddings (B, V, D) of batches of decoded images (B, R, R, 3) uint8 on the device."""
    net = method.net.eval()
    with torch.inference_mode(), torch.autocast(device.type, enabled=False):
        for batch in batches:
            images = view(batch)
            views = [images, images.flip(3)] if method.recipe.mirror else [images]
            yield torch.stack([net(each)["embedding"].float().cpu() for each in views], dim=1).numpy()


def _digest(method: Method) -> str:
    """SHA-256 of the weights on which embeddings depend: the backbone's, and those of a finder of regions."""
    digest, parts = hashlib.sha256(), [method.net.get_submodule("backbone")]
    if method.regions:
        parts.append(method.net.get_submodule("finder"))
    for name, tensor in itertools.chain.from_iterable(part.state_dict().items() for part in parts):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

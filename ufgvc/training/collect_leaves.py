"""Collects the training leaves that a trained model carries."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from ufgvc.core.parquet import read_parquet_rows
from ufgvc.core.text import plural
from ufgvc.data.dataset import Dataset, read_index
from ufgvc.data.images import decode
from ufgvc.data.resize import encode_thumbnail, resize_square
from ufgvc.data.stream import list_chunks
from ufgvc.methods.method import Method
from ufgvc.models.score import embed_images
from ufgvc.models.training_leaves import SIDE, TrainingLeaves, choose_leaves
from ufgvc.runtime.resources import TorchDevice
from ufgvc.training.embedding_shards import EmbeddingShards
from ufgvc.training.settings import WorkerConfig

log = logging.getLogger(__name__)
BATCH_SIZE = 32


def collect_leaves(method: Method, dataset: Dataset, config: WorkerConfig, device: TorchDevice) -> TrainingLeaves:
    """Embeds some leaves of each cultivar with a trained network, and makes their thumbnails; each is read once.

    method: with the trained weights and the run's recipe.
    """
    split = config.split
    index = read_index(dataset, split)
    labels = index["label"].to_numpy().astype(np.int64)
    chosen = choose_leaves(labels)
    recipe = method.recipe
    features, thumbnails = [], []
    embedded = read_embeddings(method, config, chosen)
    for rows in _read_batches(dataset, split, chosen):
        images = [decode(row["image"], row["orientation"]) for row in rows]
        thumbnails += [encode_thumbnail(image, SIDE) for image in images]
        if embedded is None:
            batch = np.stack([resize_square(image, recipe.eval_resize) for image in images])
            features.append(embed_images(method, [batch], recipe.crop, device))
    image_ids = index["image_id"].take(pa.array(chosen)).to_pylist()
    found = np.concatenate(features) if embedded is None else embedded
    leaves = TrainingLeaves.of_features(found, labels[chosen], image_ids, thumbnails)
    log.info(
        "the model carries %s (%.1f MB), which predictions show as the nearest ones; "
        "`--train.no-neighbours` leaves them out",
        plural(len(leaves), "training leaf", "training leaves"),
        len(leaves.to_bytes()) / 1e6,
    )
    return leaves


def read_embeddings(method: Method, config: WorkerConfig, positions: NDArray[np.int64]) -> NDArray[np.float32] | None:
    """The pooled features (n, D) of training images, which the fit of a classifier to frozen features has stored.

    positions: (n,) in the split.  None for other methods, and where leaves were held out and not embedded.
    """
    recipe = method.recipe
    if not recipe.classifier_fit or recipe.resize != recipe.eval_resize:
        return None
    shards = EmbeddingShards.of(config, method)
    needed = shards.holding(positions)
    if shards.missing(needed):
        return None
    seen = torch.from_numpy(shards.fetch(needed)[positions][:, 0])  # the view that is not mirrored
    standardised = (seen - method.net.get_buffer("mean").cpu()) / method.net.get_buffer("scale").cpu()
    return method.pool_features({"embedding": standardised}).numpy()


def count_classes(dataset: Dataset, split: str) -> list[int]:
    """The number of leaves of each cultivar in a split, in label order."""
    labels = read_index(dataset, split)["label"].to_numpy()
    return [int(count) for count in np.bincount(labels, minlength=len(dataset.classes))]


def _read_batches(dataset: Dataset, split: str, chosen: np.ndarray) -> Iterator[list[dict[str, Any]]]:
    """Rows of the split by index, in batches; only row groups that hold some of them are read."""
    rows: list[dict[str, Any]] = []
    for chunk in list_chunks(dataset, split, None):
        places = chosen[(chosen >= chunk.position) & (chosen < chunk.position + len(chunk))] - chunk.position
        if not len(places):
            continue
        table: pa.Table = read_parquet_rows(
            dataset.store, chunk.images, chunk.start, chunk.stop, ["image", "orientation"]
        )
        rows += table.take(pa.array(places)).to_pylist()
        while len(rows) >= BATCH_SIZE:
            yield rows[:BATCH_SIZE]
            rows = rows[BATCH_SIZE:]
    if rows:
        yield rows

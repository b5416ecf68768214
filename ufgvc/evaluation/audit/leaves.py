"""Reads every leaf of a data set once: what it shows, its signature for near-duplicates, and its embedding."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from PIL import Image

from ufgvc.core.errors import UserError
from ufgvc.core.parquet import read_parquet_rows
from ufgvc.core.storage import Store
from ufgvc.data.dataset import Dataset, read_index
from ufgvc.data.duplicates import ImageSignatures
from ufgvc.data.images import BadImage, decode
from ufgvc.data.resize import THUMBNAIL_SIDE, resize_square
from ufgvc.data.splits import pool_splits
from ufgvc.data.stream import Chunk, list_chunks
from ufgvc.evaluation.audit.photograph import measure
from ufgvc.evaluation.audit.settings import AuditSettings
from ufgvc.evaluation.score import check_complete, scores_in_process
from ufgvc.methods import build
from ufgvc.methods.method import Method
from ufgvc.models.model import LoadedModel
from ufgvc.models.score import score_images
from ufgvc.runtime.resources import actor_pool, choose_device
from ufgvc.runtime.session import RaySettings, ray_session, uses_cluster
from ufgvc.runtime.tasks import one_task_each, run_tasks
from ufgvc.training.embeddings import embed_images
from ufgvc.training.frozen import fastest_form

log = logging.getLogger(__name__)
ALL = "all"
VECTORS = ("background", "colour", "file", "embedding")


@dataclass(frozen=True)
class Network:
    """What embeds leaves.  resize, crop: sides in pixels.  pooled: the mean of the last map; else "embedding"."""

    method: Method
    resize: int
    crop: int
    pooled: bool

    @classmethod
    def of_model(cls, model: LoadedModel) -> Network:
        """The pooled features of a trained model."""
        return cls(model.method, int(model.input["resize"]), int(model.input["size"]), pooled=True)

    @classmethod
    def frozen(cls, num_classes: int, settings: AuditSettings) -> Network:
        """The network of `linear_probe`, which no leaf has changed. UserError for weights that are not there."""
        method = build("linear_probe", num_classes, init=settings.init, backbone=settings.backbone)
        method = replace(method, recipe=method.recipe.model_copy(update={"crop": settings.side}))
        method.net.eval()
        return cls(method, settings.side, settings.side, pooled=False)

    def fastest(self, num_images: int, device: str) -> Network:
        """The same network in its fastest form for so many leaves."""
        return self if self.pooled else replace(self, method=fastest_form(self.method, num_images, device))

    def embed(self, images: NDArray[np.uint8], device: str) -> NDArray[np.float32]:
        """(B, resize, resize, 3) uint8 -> (B, D) float32; of "embedding" the mean of a leaf and its mirror image."""
        if self.pooled:
            features = score_images(self.method, [images], self.crop, device, with_features=True)[1]
            assert features is not None
            return features
        self.method.net.to(device)
        return embed_images(self.method, images, torch.device(device)).mean(axis=1)


@dataclass(frozen=True)
class Leaves:
    """N leaves in the order of their shards.

    index: INDEX_COLUMNS.  facts: {name: (N,)}, see `measure`.  background, colour, file, embedding: (N, .) float32.
    signatures: for `find_duplicates`.  thumbnails: N JPEG files.
    """

    index: pa.Table
    classes: tuple[str, ...]
    facts: dict[str, NDArray[Any]]
    background: NDArray[np.float32]
    colour: NDArray[np.float32]
    file: NDArray[np.float32]
    embedding: NDArray[np.float32]
    signatures: ImageSignatures
    thumbnails: list[bytes]

    @property
    def labels(self) -> NDArray[np.int64]:
        """(N,) indices into `classes`."""
        return self.index["label"].to_numpy().astype(np.int64)

    def column(self, name: str) -> list[Any]:
        """A column of the index as a list."""
        return list(self.index[name].to_pylist())


def read_leaves(dataset: Dataset, network: Network, settings: AuditSettings, ray: RaySettings) -> Leaves:
    """Reads, measures and embeds every leaf of all splits, a row group at a time; large sets by Ray actors.

    About 3 kilobytes a leaf stay in memory, and its embedding (6 kilobytes of lite0).
    UserError for a photograph that cannot be decoded. RuntimeError unless each leaf comes back exactly once.
    """
    pooled = pool_splits(dataset)
    chunks = list_chunks(pooled, ALL, None)
    here = scores_in_process(pooled, settings, ALL)
    session: AbstractContextManager[Any] = contextlib.nullcontext()
    with session if here else ray_session(ray, settings.gpus_to_wait_for):
        found = (_read_here if here else _read_by_actors)(dataset.store, chunks, network, settings)
        table = pa.concat_tables(list(found)).combine_chunks()
    check_complete(table["image_id"].to_pylist(), sum(dataset.counts.values()))
    index = read_index(pooled, ALL)
    if index["image_id"].to_pylist() != table["image_id"].to_pylist():
        raise RuntimeError("the leaves came back in another order than they were sent")
    facts = {name.removeprefix("fact:"): table[name].to_numpy() for name in table.column_names if "fact:" in name}
    vectors = {name: np.stack(table[name].to_numpy()).astype(np.float32) for name in VECTORS}
    shapes = {"hashes": (-1,), "thumbnails": (THUMBNAIL_SIDE // 2, THUMBNAIL_SIDE // 2), "colours": (8, 8, 3)}
    arrays = {name: np.stack(table[name].to_numpy()).astype(np.uint8) for name in shapes}
    signatures = ImageSignatures(*(arrays[name].reshape(len(index), *shape) for name, shape in shapes.items()))
    thumbnails = table["thumbnail"].to_pylist()
    return Leaves(index, dataset.classes, facts, **vectors, signatures=signatures, thumbnails=thumbnails)


class ChunkMeasurer:
    """Measures and embeds chunks: {"task": indices} -> a table with a row for each leaf. An actor of Ray Data."""

    def __init__(self, store: Store, chunks: list[Chunk], network: Any, batch_size: int, device: str) -> None:
        if not isinstance(network, Network):
            import ray

            network = ray.get(network)
        self.store, self.chunks, self.batch_size, self.device = store, chunks, batch_size, device
        self.network: Network = network

    def __call__(self, batch: Mapping[str, Any]) -> pa.Table:
        """Reads the tasks whose indices are in the batch."""
        return pa.concat_tables([self._read(self.chunks[int(index)]) for index in batch["task"]])

    def _read(self, chunk: Chunk) -> pa.Table:
        columns = ["image_id", "image", "orientation"]
        table = read_parquet_rows(self.store, chunk.images, chunk.start, chunk.stop, columns)
        rows, small, embedded = [], [], []
        waiting: list[NDArray[np.uint8]] = []
        for row in table.to_pylist():
            image = _decode(row, f"{self.store.uri}/{chunk.images}")
            one = measure(row["image"], image)
            facts = {f"fact:{name}": value for name, value in one.facts.items()}
            vectors = {name: getattr(one, name) for name in VECTORS[:-1]}
            rows.append({"image_id": row["image_id"], "thumbnail": one.thumbnail, **facts, **vectors})
            small.append(_square_thumbnail(image))
            waiting.append(resize_square(image, self.network.resize))
            if len(waiting) == self.batch_size or len(rows) == table.num_rows:
                embedded.append(self.network.embed(np.stack(waiting), self.device))
                waiting = []
        signatures = ImageSignatures.from_thumbnails(small)
        found = pa.Table.from_pylist(rows)
        found = found.append_column("embedding", pa.array(list(np.concatenate(embedded))))
        for name in ("hashes", "thumbnails", "colours"):
            values = getattr(signatures, name).reshape(len(rows), -1)
            found = found.append_column(name, pa.array(list(values)))
        log.info("audit: read leaves %d to %d", chunk.position + 1, chunk.position + len(chunk))
        return found


def _decode(row: Mapping[str, Any], where: str) -> NDArray[np.uint8]:
    try:
        return decode(row["image"], row["orientation"])
    except BadImage as error:
        what, fix = f"the photograph {row['image_id']} {error.reason}", "run `ufgvc ingest` again"
        raise UserError(what, where=where, fix=fix) from None


def _square_thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The upright image (H, W, 3) as `ImageSignatures` takes it."""
    size = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, reducing_gap=1.5))


def _read_here(store: Store, chunks: list[Chunk], network: Network, settings: AuditSettings) -> Iterator[pa.Table]:
    device = choose_device(settings.device)
    network = network.fastest(sum(map(len, chunks)), device)
    measurer = ChunkMeasurer(store, chunks, network, settings.batch_size, device)
    return (measurer({"task": [index]}) for index in range(len(chunks)))


def _read_by_actors(store: Store, chunks: list[Chunk], network: Network, settings: AuditSettings) -> Iterator[pa.Table]:
    import ray

    pool = actor_pool(settings, len(chunks))
    if not uses_cluster(None):  # whose nodes may lack the packages
        network = network.fastest(sum(map(len, chunks)), pool.device)
    found = one_task_each([{"task": index} for index in range(len(chunks))]).map_batches(
        ChunkMeasurer,
        fn_constructor_args=(store, chunks, ray.put(network), settings.batch_size, pool.device),
        batch_size=1,
        **pool.options,
    )
    return run_tasks(found.iter_batches(batch_size=None, batch_format="pyarrow"))

"""Embeddings of a split in shards: files of consecutive rows in storage, read one at a time from a node's disk."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from ufgvc.core.config import short_key
from ufgvc.core.errors import DamagedFile, UserError
from ufgvc.core.storage import Store, open_store
from ufgvc.data.stream import ROWS_PER_CHUNK, Chunk, Ints, list_chunks
from ufgvc.methods.method import Method
from ufgvc.training.settings import WorkerConfig

FORMULA = 3  # to be raised when the nets pool otherwise: shards of older versions must not be found then
DECODED_BYTES = 64 << 20  # of the decoded images of a shard, at most: they pass through Ray's object store
SHARDS = 8  # of a split at least, so that all actors have work to the end, but for LEAST rows in each
LEAST = 8
COPIES = 8  # shards that are copied to a node at a time
AGAIN = "the same command makes it again"


@dataclass(frozen=True)
class ShardedRows:
    """Embeddings (N, V, D) float32 of which only the rows that are asked for are read.

    folder: on this node.  chunks: of the shards in it, in order; rows of others cannot be read.  shape: (N, V, D).
    """

    folder: Path
    chunks: tuple[Chunk, ...]
    shape: tuple[int, int, int]

    def __getitem__(self, positions: Ints) -> NDArray[np.float32]:
        """A copy of the rows (n, V, D) at positions (n,). UserError for a shard that is gone or damaged."""
        found = np.empty((len(positions), *self.shape[1:]), np.float32)
        shard = np.searchsorted(self._starts, positions, side="right") - 1
        for number in np.unique(shard):
            chunk, here = self.chunks[number], shard == number
            found[here] = read_shard(self.folder, chunk)[positions[here] - chunk.position]
        return found

    @functools.cached_property
    def _starts(self) -> Ints:
        return np.array([chunk.position for chunk in self.chunks])


@dataclass(frozen=True)
class EmbeddingShards:
    """The shards of all embeddings of a split by one frozen network, in a folder of <runs>/_cache.

    The shard of a chunk of the split holds its rows (n, V, D) float32 of V views as <first position>-<end>.npy. It is
    written whole or not at all: one that exists is complete.
    store: the folder in storage.  node: its copy on this node's disk; the folder itself where storage is local.
    chunks: every position of the split once, in order.  side: of the decoded images in pixels.
    """

    store: Store
    node: Path
    chunks: tuple[Chunk, ...]
    side: int

    @classmethod
    def of(cls, config: WorkerConfig, method: Method) -> EmbeddingShards:
        """The shards of `config.split`; their folder is named after all that determines the rows.

        method: with its frozen weights, and the recipe of the configuration.
        """
        dataset, recipe = config.open_dataset(), method.recipe
        # The fingerprint does not say in which order the images are.
        images = [dataset.fingerprint, [shard.digest for shard in dataset.shards if shard.split == config.split]]
        network = [frozen_digest(method), method.name, method.options]
        key = short_key([FORMULA, *images, *network, recipe.resize, recipe.crop, recipe.mirror])
        name = f"{dataset.name}-{config.split}-{recipe.resize}.embeddings-{key}"
        store = open_store(config.embeddings or config.cache_folder).child(name)
        node = store.local_path if store.is_local else Path(config.cache_folder) / name
        rows = shard_rows(dataset.counts[config.split], recipe.resize)
        return cls(store, node, tuple(list_chunks(dataset, config.split, None, rows)), recipe.resize)

    def holding(self, positions: Ints) -> list[Chunk]:
        """The chunks that hold any of the positions."""
        return [self.chunks[each] for each in np.unique(np.searchsorted(self._starts, positions, side="right") - 1)]

    def missing(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """Those of the chunks whose shards storage does not have."""
        found = set(self.store.list())
        return [chunk for chunk in chunks if shard_name(chunk) not in found]

    def write(self, position: int, rows: NDArray[np.float32]) -> None:
        """Writes the shard whose first row is at `position`. RuntimeError if the rows are not those of one chunk."""
        chunk = self.chunks[int(np.searchsorted(self._starts, position, side="right")) - 1]
        if chunk.position != position or len(chunk) != len(rows):
            raise RuntimeError(f"{len(rows)} embeddings from position {position} on are no shard of {self.store.uri}")
        with self.store.writer(shard_name(chunk)) as file:
            np.save(file, rows)

    def lock(self, part: str) -> FileLock:
        """The lock of a part of the shards on this node, for the process that makes and copies them."""
        self.node.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self.node.with_name(f".{self.node.name}.{part}.lock"))

    def fetch(self, chunks: Sequence[Chunk]) -> ShardedRows:
        """The rows of some chunks, whose shards are copied to this node's disk first where storage is elsewhere.

        UserError for a shard that is gone, or damaged, and for a full disk.
        """
        if not self.store.is_local:
            with ThreadPoolExecutor(COPIES) as pool:
                list(pool.map(self._copy, chunks))
        first = read_shard(self.node, chunks[0])
        return ShardedRows(self.node, tuple(chunks), (sum(map(len, self.chunks)), *first.shape[1:]))

    @functools.cached_property
    def _starts(self) -> Ints:
        return np.array([chunk.position for chunk in self.chunks])

    def _copy(self, chunk: Chunk) -> None:
        name = shard_name(chunk)
        if (self.node / name).exists():
            return
        try:
            open_store(self.node).write_bytes(name, self.store.read_bytes(name))
        except FileNotFoundError:
            raise UserError("is gone", where=f"{self.store.uri}/{name}", fix=AGAIN) from None


def frozen_digest(method: Method) -> str:
    """SHA-256 of the weights on which embeddings depend: the backbone's, and those of a finder of regions."""
    digest, parts = hashlib.sha256(), [method.net.get_submodule("backbone")]
    if method.regions:
        parts.append(method.net.get_submodule("finder"))
    for name, tensor in itertools.chain.from_iterable(part.state_dict().items() for part in parts):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def shard_rows(count: int, side: int) -> int:
    """Rows of each shard of a split of `count` images of `side` pixels: a row group, or a part of it, because decoded
    images take memory, and of few images all actors should have some.
    """
    rows = ROWS_PER_CHUNK
    while rows > LEAST and rows * SHARDS > count:
        rows //= 2
    while rows > 1 and rows * 3 * side**2 > DECODED_BYTES:
        rows //= 2
    return rows


def shard_name(chunk: Chunk) -> str:
    """The file of a chunk's embeddings; its first position and the one after its last."""
    return f"{chunk.position:09d}-{chunk.position + len(chunk):09d}.npy"


def read_shard(folder: Path, chunk: Chunk) -> NDArray[np.float32]:
    """The rows (n, V, D) of a chunk. UserError if the file is gone, DamagedFile if it is damaged.

    The few rows of a file are read sooner than they are mapped, and thousands of maps would need as many open files.
    """
    path = folder / shard_name(chunk)
    try:
        rows = np.load(path)
    except FileNotFoundError:
        raise UserError("is gone", where=str(path), fix=AGAIN) from None
    except (ValueError, EOFError):
        rows = None
    if rows is None or rows.ndim != 3 or len(rows) != len(chunk):
        raise DamagedFile("does not hold the embeddings that were written", where=str(path), fix=f"remove it: {AGAIN}")
    return rows

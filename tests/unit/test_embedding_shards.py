"""Shards of embeddings: their names and folder, what is read of them, and how ranks divide the images."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import pytest
import torch

from tests.unit.probe_parts import CPU, config_of
from ufgvc.core.errors import DamagedFile, UserError
from ufgvc.core.storage import Store
from ufgvc.data.cache import CachedSource, DecodedSplit
from ufgvc.methods import build
from ufgvc.methods.method import Method
from ufgvc.training.ddp import Ranks
from ufgvc.training.embedding_shards import EmbeddingShards, shard_name, shard_rows
from ufgvc.training.embeddings import embed_training_images
from ufgvc.training.loader import BatchLoader


@pytest.fixture(scope="module")
def method() -> Method:
    torch.manual_seed(0)
    method = build("linear_probe", 3, backbone="resnet18", stages=(4,))
    return replace(method, recipe=method.recipe.model_copy(update={"resize": 40, "crop": 32}))


def shards_of(folder: Path, method: Method, count: int = 70, rows: int = 25) -> EmbeddingShards:
    return EmbeddingShards.of(config_of(folder, count, rows), method)


def rows_at(positions: np.ndarray) -> np.ndarray:
    """Rows (n, 2, 3) that say where they belong."""
    return (positions[:, None, None] + np.array([[0, 0.1, 0.2], [0.5, 0.6, 0.7]])).astype(np.float32)


def fill(shards: EmbeddingShards, *chosen: int) -> None:
    for number in chosen or range(len(shards.chunks)):
        chunk = shards.chunks[number]
        shards.write(chunk.position, rows_at(np.arange(chunk.position, chunk.position + len(chunk))))


@pytest.mark.parametrize(
    ("count", "side", "rows"),
    [(6, 448, 8), (200, 448, 16), (512, 448, 64), (1_000_000, 448, 64), (1_000_000, 640, 32), (100, 6000, 1)],
)
def test_rows_of_a_shard(count: int, side: int, rows: int) -> None:
    assert shard_rows(count, side) == rows


def test_shards_hold_every_position_once(tmp_path: Path, method: Method) -> None:
    shards = shards_of(tmp_path, method)
    assert [len(chunk) for chunk in shards.chunks] == [8, 8, 8, 1, 8, 8, 8, 1, 8, 8, 4]  # none crosses a file of images
    covered = [position for chunk in shards.chunks for position in range(chunk.position, chunk.position + len(chunk))]
    assert covered == list(range(70))
    assert shard_name(shards.chunks[3]) == "000000024-000000025.npy"
    assert shards.holding(np.array([0, 24, 69])) == [shards.chunks[0], shards.chunks[3], shards.chunks[-1]]


def test_the_folder_says_what_the_rows_depend_on(tmp_path: Path, method: Method) -> None:
    config = config_of(tmp_path, 70)
    dataset = config.open_dataset()
    folders = {EmbeddingShards.of(config, method).node.name}
    for changes in ({"mirror": False}, {"crop": 36}, {"resize": 48}):
        changed = replace(method, recipe=method.recipe.model_copy(update=changes))
        folders.add(EmbeddingShards.of(config, changed).node.name)
    folders.add(EmbeddingShards.of(config, replace(method, options=method.options | {"stages": [5]})).node.name)
    torch.manual_seed(1)
    again = build("linear_probe", 3, backbone="resnet18", stages=(4,))
    folders.add(EmbeddingShards.of(config, replace(again, recipe=method.recipe)).node.name)
    turned = (replace(dataset.shards[0], digest="rows in another order"), *dataset.shards[1:])
    for other in (replace(dataset, fingerprint="another"), replace(dataset, shards=turned)):
        config.open_dataset = functools.partial(lambda each: each, other)
        folders.add(EmbeddingShards.of(config, method).node.name)
    assert len(folders) == 8
    assert all(name.startswith("leaves-train-4") for name in folders)


def test_rows_are_found_by_position(tmp_path: Path, method: Method) -> None:
    shards = shards_of(tmp_path, method)
    fill(shards)
    positions = np.array([69, 0, 24, 25, 7, 8, 0])
    rows = shards.fetch(shards.holding(positions))
    assert rows.shape == (70, 2, 3)
    assert np.array_equal(rows[positions], rows_at(positions))


def test_only_missing_shards_are_made(tmp_path: Path, method: Method) -> None:
    shards = shards_of(tmp_path, method)
    fill(shards, 0, 4)
    (shards.node / ".ufgvc-tmp-12345678").write_bytes(b"half of a shard")
    missing = shards.missing(shards.chunks)
    assert missing == [chunk for number, chunk in enumerate(shards.chunks) if number not in (0, 4)]


def test_rows_that_are_no_shard_are_refused(tmp_path: Path, method: Method) -> None:
    shards = shards_of(tmp_path, method)
    for position, count in ((0, 7), (4, 8), (24, 8)):
        with pytest.raises(RuntimeError, match="are no shard of"):
            shards.write(position, rows_at(np.arange(count)))
    assert shards.missing(shards.chunks) == list(shards.chunks)


@pytest.mark.parametrize("content", [b"", b"text", None], ids=["empty", "text", "cut"])
def test_a_damaged_shard_is_one_message(content: bytes | None, tmp_path: Path, method: Method) -> None:
    shards = shards_of(tmp_path, method)
    fill(shards)
    path = shards.node / shard_name(shards.chunks[2])
    path.write_bytes(path.read_bytes()[:-40] if content is None else content)
    with pytest.raises(DamagedFile, match="does not hold the embeddings") as caught:
        shards.fetch(shards.chunks)[np.array([17])]
    assert caught.value.where == str(path)
    path.unlink()
    with pytest.raises(UserError, match="is gone"):
        shards.fetch(shards.chunks)[np.array([17])]


def test_shards_elsewhere_are_copied_once_and_only_what_is_needed(tmp_path: Path, method: Method) -> None:
    remote = Store("far://shards", pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem()), "far")
    (tmp_path / "far").mkdir()
    shards = replace(shards_of(tmp_path / "node", method), store=remote)
    fill(shards)
    needed = shards.holding(np.array([0, 24]))
    assert np.array_equal(shards.fetch(needed)[np.array([24])], rows_at(np.array([24])))
    assert sorted(path.name for path in shards.node.iterdir()) == [shard_name(chunk) for chunk in needed]
    for chunk in needed:
        (tmp_path / "far" / shard_name(chunk)).unlink()
    assert np.array_equal(shards.fetch(needed)[np.array([0])], rows_at(np.array([0])))
    (tmp_path / "far" / shard_name(shards.chunks[1])).unlink()
    with pytest.raises(UserError, match="is gone") as caught:
        shards.fetch(shards.chunks)
    assert "far://shards/000000008-000000016.npy" in str(caught.value)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_the_images_and_have_the_same_rows(world: int, tmp_path: Path, method: Method) -> None:
    images = np.random.default_rng(0).integers(0, 255, (21, 40, 40, 3), dtype=np.uint8)
    trained, labels = np.delete(np.arange(21), [3, 4, 11]), np.arange(21) % 3
    config, recipe, none = config_of(tmp_path, 21), method.recipe, np.arange(0)
    source = CachedSource(DecodedSplit(images, {}, {}), labels, trained, 4, 0, 0, 1, CPU)
    rest: Any = none, trained, labels[trained], [None] * len(trained), 0, None, none, labels, CPU
    seen: dict[int, np.ndarray] = {}
    for rank in range(world):
        found = embed_training_images(method, BatchLoader(config, recipe, source, *rest), Ranks(rank, world, CPU))
        assert (found.labels == labels[found.positions]).all()
        rows = found.take(np.arange(len(found.labels)))
        assert not seen.keys() & set(found.positions.tolist())
        seen |= dict(zip(found.positions.tolist(), rows, strict=True))
    assert sorted(seen) == trained.tolist()
    with torch.inference_mode():
        views = torch.from_numpy(images[:, 4:36, 4:36]).permute(0, 3, 1, 2) / 255
        wanted = torch.stack([method.net(each)["embedding"] for each in (views, views.flip(3))], dim=1).numpy()
    assert np.allclose([seen[position] for position in trained.tolist()], wanted[trained], atol=1e-3)

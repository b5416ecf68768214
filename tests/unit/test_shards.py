"""Shards, manifests and fingerprints on storage."""

from __future__ import annotations

import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store
from ufgvc.core.types import Box
from ufgvc.data import dataset as module
from ufgvc.data.dataset import (
    ShardWriter,
    fingerprint_of,
    open_dataset,
    read_images,
    read_index,
    read_manifest,
    read_shard,
)
from ufgvc.data.schemas import IMAGES_SCHEMA, REGIONS_SCHEMA, from_boxes, to_boxes


def images(split: str, names: list[str]) -> pa.Table:
    n = len(names)
    columns = {
        "image_id": names,
        "image": [name.encode() for name in names],
        "orientation": [1] * n,
        "height": [40] * n,
        "width": [60] * n,
        "label": list(range(n)),
        "cultivar": [f"c{k}" for k in range(n)],
        "split": [split] * n,
        "group": [None] * n,
        "sha256": [f"hash of {name}" for name in names],
    }
    return pa.table(columns, schema=IMAGES_SCHEMA)


def regions(names: list[str], boxes: list[list[Box] | None]) -> pa.Table:
    return pa.table({"image_id": names, "boxes": [from_boxes(some) for some in boxes]}, schema=REGIONS_SCHEMA)


@pytest.fixture
def dataset(tmp_path: Path) -> module.Dataset:
    store = open_store(tmp_path / "leaves")
    writer = ShardWriter(store, "images", "", "images")
    tables = {"train-00000": images("train", ["a", "b"]), "test-00000": images("test", ["c"])}
    shards = [writer.write(name, name[:-6], table) for name, table in tables.items()]
    writer.write_manifest(shards)
    return module.write_dataset(store, "leaves", ["c0", "c1"], pa.concat_tables(tables.values()), shards, "here")


def test_a_dataset_is_read_as_it_was_written(dataset: module.Dataset) -> None:
    found = open_dataset(dataset.store.uri)
    assert found == dataset
    assert found.counts == {"train": 2, "test": 1}
    assert read_images(found, found.shards[0])["image"].to_pylist() == [b"a", b"b"]
    index = read_index(found)
    assert "image" not in index.column_names
    assert index.select(["image_id", "shard", "row"]).to_pylist() == [
        {"image_id": "a", "shard": "train-00000", "row": 0},
        {"image_id": "b", "shard": "train-00000", "row": 1},
        {"image_id": "c", "shard": "test-00000", "row": 0},
    ]
    assert read_index(found, "test")["image_id"].to_pylist() == ["c"]


def test_no_dataset_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no data set") as caught:
        open_dataset(str(tmp_path))
    assert "ufgvc ingest" in str(caught.value)


def test_boxes_tell_unknown_from_none(dataset: module.Dataset) -> None:
    writer = pickle.loads(pickle.dumps(ShardWriter(dataset.store, "regions/annotated", dataset.fingerprint, "regions")))
    boxes = [None, [Box("vein", 1, 2, 3, 4, 0.5)]]
    train = writer.write("train-00000", "train", regions(["a", "b"], boxes))
    test = writer.write("test-00000", "test", regions(["c"], [[]]))
    writer.commit([train, test], k=3)
    assert [
        to_boxes(value) for value in read_shard(dataset, "regions/annotated", "train-00000")["boxes"].to_pylist()
    ] == boxes
    assert read_shard(dataset, "regions/annotated", dataset.shards[1])["boxes"].to_pylist() == [[]]
    assert read_manifest(dataset, "regions/annotated").extra == {"k": 3}


def test_masks_of_other_images_are_refused_with_the_command(dataset: module.Dataset) -> None:
    ShardWriter(dataset.store, "masks/box", "fingerprint of others", "masks").commit([])
    with pytest.raises(UserError, match="other images") as caught:
        read_manifest(dataset, "masks/box")
    assert "ufgvc mask --data" in str(caught.value)
    with pytest.raises(UserError, match="does not exist"):
        read_manifest(dataset, "regions/detected")
    with pytest.raises(UserError, match="does not exist") as caught:
        read_manifest(dataset, "masks/structure")
    assert "ufgvc mask --mask-kind structure --data" in str(caught.value)


def test_commit_removes_what_no_manifest_names_and_nothing_earlier(dataset: module.Dataset) -> None:
    writer = ShardWriter(dataset.store, "regions/detected", dataset.fingerprint, "regions")
    old = writer.write("train-00000", "train", regions(["a"], [None]))
    writer.commit([old])
    new = writer.write("train-00000", "train", regions(["a"], [[]]))
    assert read_shard(dataset, "regions/detected", "train-00000")["boxes"].to_pylist() == [None], (
        "until the commit the old shard counts"
    )
    writer.commit([new])
    assert read_shard(dataset, "regions/detected", "train-00000")["boxes"].to_pylist() == [[]]
    assert dataset.store.child("regions/detected").list() == ["manifest.json", new.file]


def test_fingerprints_follow_the_content_only(dataset: module.Dataset) -> None:
    table = read_index(dataset)
    assert fingerprint_of(table.take([2, 0, 1])) == dataset.fingerprint
    changed = table.set_column(table.column_names.index("label"), "label", pa.array([0, 0, 0], pa.int32()))
    assert fingerprint_of(changed) != dataset.fingerprint

    writer = ShardWriter(dataset.store, "regions/detected", dataset.fingerprint, "regions")
    once, again, other = (
        writer.commit([writer.write("train-00000", "train", regions(["a"], [boxes]))]) for boxes in ([], [], None)
    )
    assert once.fingerprint == again.fingerprint != other.fingerprint
    assert once.shards[0].file != again.shards[0].file


def test_shards_never_mix_splits(dataset: module.Dataset) -> None:
    with pytest.raises(ValueError, match="cannot hold split"):
        ShardWriter(dataset.store, "images", "", "images").write("train-00000", "test", images("test", ["c"]))


def test_a_missing_shard_is_an_error(dataset: module.Dataset) -> None:
    dataset.store.delete(f"images/{dataset.shards[0].file}")
    with pytest.raises(UserError, match="does not exist"):
        read_images(dataset, dataset.shards[0])

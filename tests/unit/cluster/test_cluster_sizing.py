"""The sizes in the manifests against what the program needs: the object store, and the index of a large data set."""

from __future__ import annotations

import pyarrow as pa

from tests.unit.cluster.manifests import GROUPS, containers, number, request
from ufgvc.data.cache import decoded_size
from ufgvc.data.schemas import IMAGES_SCHEMA, INDEX_COLUMNS
from ufgvc.data.stream import ROWS_PER_CHUNK
from ufgvc.methods import build

INDEX_BYTES = 200  # a leaf in the index of each worker: the bound of the design


def test_a_leaf_in_the_index_stays_within_the_bound() -> None:
    rows = 10_000
    values = {
        "image_id": [f"cultivar-{i % 1000:04d}_{i:09d}_train" for i in range(rows)],
        "cultivar": [f"cultivar-{i % 1000:04d}" for i in range(rows)],
        "split": ["train"] * rows,
        "group": [None] * rows,
        "sha256": ["0" * 64] * rows,
    }
    columns = [pa.array(values.get(name, [1] * rows), IMAGES_SCHEMA.field(name).type) for name in INDEX_COLUMNS]
    table = pa.table(columns, names=INDEX_COLUMNS).append_column("shard", pa.array(["train-00000"] * rows))
    table = table.append_column("row", pa.array(range(rows), pa.int32()))
    arrays = 4 * 8  # labels, positions, keys and the epoch's order, 8 bytes each
    assert table.nbytes / rows + arrays < INDEX_BYTES


def test_the_object_store_holds_the_blocks_that_are_decoded_at_a_time() -> None:
    side = build("mask_guided", num_classes=2, init="none").recipe.resize
    block = decoded_size(ROWS_PER_CHUNK, side, num_masks=2)
    tasks = request(containers()["cpu"], "cpu") * 2  # a decoding task takes half a CPU
    for group in GROUPS.values():
        store = int(group["rayStartParams"]["object-store-memory"])
        memory = number(group["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"])
        # An input and an output block for each task, and as much again in reserve; shared memory counts as the pod's.
        assert 2 * (tasks * 2 * block) < store < memory / 2

"""Hashes of the rows of a table, and of a data set."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_ROWS_AT_ONCE = 4096  # whose places are numbers of Python


def fingerprint_of(index: pa.Table) -> str:
    """SHA-256 over the sorted (image_id, sha256, label, split) of every image; it does not depend on the shards."""
    names = ["image_id", "sha256", "label", "split"]
    rows = index.select(names)
    order = pc.sort_indices(rows, [(name, "ascending") for name in names])
    digest = hashlib.sha256()
    for row in _rows_in_order(rows, order):
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def _rows_in_order(table: pa.Table, order: pa.UInt64Array) -> Iterator[list[Any]]:
    """The rows as Python objects, one after the other. `Table.take` would copy the whole table each time."""
    batches = [batch.columns for batch in table.to_batches()]
    starts = np.cumsum([0, *(len(columns[0]) for columns in batches)])
    for first in range(0, len(order), _ROWS_AT_ONCE):
        places = order.slice(first, _ROWS_AT_ONCE).to_numpy().astype(np.int64)
        numbers = np.searchsorted(starts, places, side="right") - 1
        for number, row in zip(numbers.tolist(), (places - starts[numbers]).tolist(), strict=True):
            yield [column[row].as_py() for column in batches[number]]


class _HashSink(io.BytesIO):
    """A file object for pyarrow that hashes what is written to it, and stores nothing."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.hash.update(data)
        return len(data)


def digest_of(table: pa.Table) -> str:
    """SHA-256 of the rows; it does not depend on the file's compression and row groups."""
    sink = _HashSink()
    with pa.PythonFile(sink, mode="w") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table.combine_chunks())
    return sink.hash.hexdigest()

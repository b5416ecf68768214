"""Hashes of the rows of a table, and of a data set."""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_ROWS_AT_ONCE = 4096  # that are Python objects


def fingerprint_of(index: pa.Table) -> str:
    """SHA-256 over the sorted (image_id, sha256, label, split) of every image; it does not depend on the shards."""
    names = ["image_id", "sha256", "label", "split"]
    order = pc.sort_indices(index.select(names), [(name, "ascending") for name in names])
    digest = hashlib.sha256()
    for start in range(0, len(order), _ROWS_AT_ONCE):
        rows = index.select(names).take(order.slice(start, _ROWS_AT_ONCE))
        for row in zip(*(column.to_pylist() for column in rows.columns), strict=True):
            digest.update(json.dumps(row).encode())
    return digest.hexdigest()


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

"""Parquet files in a Store."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ufgvc.core.errors import DamagedFile
from ufgvc.core.storage import Store


def read_parquet_file(store: Store, name: str, columns: list[str] | None = None) -> pa.Table:
    """All rows of a Parquet file. DamagedFile if it is incomplete or not Parquet."""
    with _open_parquet(store, name) as file:
        return pq.ParquetFile(file).read(columns=columns)


@contextlib.contextmanager
def _open_parquet(store: Store, name: str) -> Iterator[pa.NativeFile]:
    """Opens a Parquet file. DamagedFile if it is incomplete or not Parquet."""
    try:
        with store.open_input(name) as file:
            yield file
    except pa.ArrowInvalid as error:
        fix = "restore it, or run the command that wrote it again"
        raise DamagedFile(f"is not a complete Parquet file ({error})", where=f"{store.uri}/{name}", fix=fix) from None


def read_parquet_rows(store: Store, name: str, start: int, stop: int, columns: list[str] | None = None) -> pa.Table:
    """Rows [start, stop) of a Parquet file; only the row groups that contain them are read."""
    with _open_parquet(store, name) as file:
        parquet = pq.ParquetFile(file)
        ends = np.cumsum([parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)])
        first, last = int(np.searchsorted(ends, start, "right")), int(np.searchsorted(ends, stop - 1, "right"))
        offset = start - (int(ends[first - 1]) if first else 0)
        return parquet.read_row_groups(list(range(first, last + 1)), columns=columns).slice(offset, stop - start)


def write_parquet_file(store: Store, name: str, table: pa.Table, row_group_size: int = 64) -> None:
    """Writes a table in small row groups, so that one row can be read without reading the file."""
    with store.writer(name) as file:
        pq.write_table(table, file, row_group_size=row_group_size, compression="zstd")

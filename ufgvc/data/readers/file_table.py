"""The files of a folder, packed: about 60 bytes each in place of the hundreds of a dictionary of texts."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ufgvc.core.errors import UserError

Ints = NDArray[np.int64]
BATCH = 4096  # texts that are Python objects at a time
_TEXT = pa.large_string()


class FileTable(Mapping[str, int]):
    """{path: value}, in the order of the paths, which differ. It cannot be changed.

    numbers: (N,) the values, for example the bytes of each file.
    """

    def __init__(self, paths: pa.LargeStringArray, numbers: Ints) -> None:
        self._paths, self.numbers = paths, numbers

    @staticmethod
    def of(values: Mapping[str, int]) -> FileTable:
        """A table of a few files."""
        return pack_files((path, value, 0) for path, value in values.items())[0]

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), BATCH):
            yield from self._paths.slice(start, BATCH).to_pylist()

    def items(self) -> Any:
        """(path, value) pairs, each made when it is asked for."""
        return zip(self, map(int, self.numbers), strict=True)

    def __getitem__(self, path: str) -> int:
        return int(self.numbers[self.row(path)])

    def row(self, path: str) -> int:
        """The place of a path. KeyError if it is not there."""
        row = bisect_left(range(len(self)), path, key=self.path)
        if row == len(self) or self.path(row) != path:
            raise KeyError(path)
        return row

    def path(self, row: int) -> str:
        """The path in a row."""
        return str(self._paths[row].as_py())

    def paths(self, rows: NDArray[np.integer[Any]]) -> Iterator[str]:
        """The paths in some rows, in their order."""
        for start in range(0, len(rows), BATCH):
            yield from self._paths.take(pa.array(rows[start : start + BATCH])).to_pylist()

    def select(self, chosen: NDArray[np.bool_]) -> FileTable:
        """The files for which (N,) `chosen` is true; this table itself if that are all."""
        return self if chosen.all() else FileTable(self._paths.filter(pa.array(chosen)), self.numbers[chosen])


def pack_files(files: Iterable[tuple[str, int, int]]) -> tuple[FileTable, FileTable]:
    """Two tables with the same paths, of (path, first value, second value) in any order."""
    pending, chunks = iter(files), []
    first, second = array("q"), array("q")
    while batch := list(islice(pending, BATCH)):
        try:
            chunks.append(pa.array([path for path, _, _ in batch], _TEXT))
        except UnicodeEncodeError as error:
            raise UserError(f"a name there is not UTF-8 text: {error.object!r}", fix="rename the file") from None
        first.extend(one for _, one, _ in batch)
        second.extend(other for _, _, other in batch)
    paths: Any = pa.chunked_array(chunks, _TEXT).combine_chunks()
    chunks.clear()
    order = pc.sort_indices(paths)
    rows = order.to_numpy()
    paths = paths.take(order)  # UTF-8 sorts as Python's texts do
    return FileTable(paths, np.array(first, np.int64)[rows]), FileTable(paths, np.array(second, np.int64)[rows])

"""The photographs that a reader lists, in columns: 17 bytes each, next to the table of their files."""

from __future__ import annotations

import posixpath
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from ufgvc.data.readers.file_table import BATCH, FileTable

SPLIT_NAMES = ("train", "test")
NO_SPLIT = NO_GROUP = -1
Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Photo:
    """One photograph.  path: below the source.  size: in bytes.  split, group: None if unknown.  label: from 0."""

    path: str
    size: int
    image_id: str
    cultivar: str
    label: int
    split: str | None = None
    group: str | None = None


class ImageIds:
    """The image id of each path: the path without its extension in composed Unicode (NFC), or with it if two would be
    the same.

    Only paths whose ids would be the same are kept.
    """

    def __init__(self, paths: Collection[str]) -> None:
        hashes = np.fromiter((hash(_bare(path)) for path in paths), np.int64, len(paths))
        hashes.sort()
        repeated = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
        alike = {path for path in paths if hash(_bare(path)) in repeated} if repeated else set()
        uses = Counter(map(_bare, alike))
        same = Counter(map(_composed, alike))
        self._longer = {
            path: whole if same[whole := _composed(path)] == 1 else path for path in alike if uses[_bare(path)] > 1
        }

    def __getitem__(self, path: str) -> str:
        return self._longer.get(path) or _bare(path)


def _composed(path: str) -> str:
    return unicodedata.normalize("NFC", path)


def _bare(path: str) -> str:
    return _composed(posixpath.splitext(path)[0])


class Photos(Sequence[Photo]):
    """N photographs. Indexing and iterating make `Photo` objects; changes go to the columns.

    files: the table that `at` (N,) points into.  classes: cultivars by label.  labels: (N,).  splits: (N,), places in
    SPLIT_NAMES or NO_SPLIT.  groups: (N,), places in `group_names` or NO_GROUP.
    image_id: of a path.
    """

    def __init__(
        self,
        files: FileTable,
        classes: Sequence[str],
        image_id: Callable[[str], str],
        rows: Iterable[tuple[int, int, str | None, str | None]] = (),
    ) -> None:
        """rows: (row in `files`, label, split, group) of each photograph."""
        self.files, self.classes, self.image_id = files, classes, image_id
        self.group_names: list[str] = []
        self._group_numbers: dict[str, int] = {}
        columns = array("i"), array("i"), array("b"), array("i")
        for at, label, split, group in rows:
            values = at, label, NO_SPLIT if split is None else SPLIT_NAMES.index(split), self.group_number(group)
            for column, value in zip(columns, values, strict=True):
                column.append(value)
        self.at, self.labels, self.splits, self.groups = (np.array(column, column.typecode) for column in columns)

    def __len__(self) -> int:
        return len(self.at)

    @overload
    def __getitem__(self, row: int) -> Photo: ...
    @overload
    def __getitem__(self, row: slice) -> Photos: ...
    def __getitem__(self, row: int | slice) -> Photo | Photos:
        if isinstance(row, slice):
            return self.take(np.arange(len(self))[row])
        return self._photo(row, self.files.path(int(self.at[row])))

    def __iter__(self) -> Iterator[Photo]:
        return map(self._photo, range(len(self)), self.paths())

    def _photo(self, row: int, path: str) -> Photo:
        label, split, group = int(self.labels[row]), int(self.splits[row]), int(self.groups[row])
        return Photo(
            path,
            int(self.files.numbers[self.at[row]]),
            self.image_id(path),
            self.classes[label],
            label,
            None if split == NO_SPLIT else SPLIT_NAMES[split],
            None if group == NO_GROUP else self.group_names[group],
        )

    def paths(self, rows: NDArray[np.integer[Any]] | None = None) -> Iterator[str]:
        """The paths, of all photographs or of some rows."""
        return self.files.paths(self.at if rows is None else self.at[rows])

    def ids(self, rows: NDArray[np.integer[Any]] | None = None) -> Iterator[str]:
        """The image ids, of all photographs or of some rows."""
        return map(self.image_id, self.paths(rows))

    def paths_of(self, image_ids: Collection[str]) -> dict[str, str]:
        """{image id: path} of some image ids."""
        wanted = set(image_ids)
        if not wanted:
            return {}
        return {name: path for path in self.paths() if (name := self.image_id(path)) in wanted}

    def group_number(self, group: str | None) -> int:
        """The place of a group in `group_names`; a new one is added."""
        if group is None:
            return NO_GROUP
        number = self._group_numbers.setdefault(group, len(self.group_names))
        if number == len(self.group_names):
            self.group_names.append(group)
        return number

    def first_rows(self) -> Rows:
        """(files,) the first photograph of each file; -1 where there is none."""
        first = np.full(len(self.files), -1)
        first[self.at[::-1]] = np.arange(len(self))[::-1]
        return first

    def take(self, rows: Rows | Mask) -> Photos:
        """Some of the photographs, by number or mask, with the same groups."""
        taken = Photos(self.files, self.classes, self.image_id)
        taken.group_names, taken._group_numbers = self.group_names, self._group_numbers
        taken.at, taken.labels = self.at[rows], self.labels[rows]
        taken.splits, taken.groups = self.splits[rows], self.groups[rows]
        return taken

    def split_counts(self) -> Counter[str]:
        """Photographs of each split; those without one count as ""."""
        numbers, counts = np.unique(self.splits, return_counts=True)
        names = ["" if number == NO_SPLIT else SPLIT_NAMES[number] for number in numbers]
        return Counter(dict(zip(names, counts.tolist(), strict=True)))


def text_hashes(texts: Iterable[str], count: int, digest: Callable[[str], bytes]) -> NDArray[np.uint64]:
    """(count, 2): a digest of 16 bytes of each text, which sort as the digests do."""
    hashes = np.empty((count, 2), np.uint64)
    pending = iter(texts)
    for start in range(0, count, BATCH):
        joined = b"".join(digest(next(pending)) for _ in range(min(BATCH, count - start)))
        hashes[start : start + BATCH] = np.frombuffer(joined, ">u8").reshape(-1, 2)
    return hashes


def hash_order(hashes: NDArray[np.uint64]) -> Rows:
    """The rows of `text_hashes` in ascending order."""
    return np.lexsort((hashes[:, 1], hashes[:, 0]))

"""What ingest learns of every photograph, on the local disk: held in memory it would be a kilobyte and more each."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ufgvc.data.dataset import Shard
from ufgvc.data.duplicates import SIGNATURE_SHAPES, ImageSignatures
from ufgvc.data.packing import PackedShard
from ufgvc.data.readers.file_table import BATCH
from ufgvc.data.readers.scan import Rejected
from ufgvc.data.schemas import IMAGES_SCHEMA, INDEX_COLUMNS

INDEX_SCHEMA = pa.schema([IMAGES_SCHEMA.field(name) for name in INDEX_COLUMNS])


class Spool:
    """Takes packed shards. Their indices and signatures go to files in `folder`, which are mapped and not read.

    images, regions: the shards that were written.  rejected: of all of them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.images: list[Shard] = []
        self.regions: list[Shard] = []
        self.rejected: list[Rejected] = []
        self._files: dict[str, IO[bytes]] = {name: (folder / name).open("wb") for name in SIGNATURE_SHAPES}
        self._writer = pa.ipc.new_file(str(folder / "index"), INDEX_SCHEMA)
        self._rows = 0

    def add(self, packed: PackedShard) -> None:
        """Stores what a task has returned."""
        self.rejected += packed.rejected
        if packed.images and packed.regions:
            self.images.append(packed.images)
            self.regions.append(packed.regions)
        self._writer.write_table(packed.index)
        self._rows += packed.index.num_rows
        for name, file in self._files.items():
            file.write(np.ascontiguousarray(getattr(packed.signatures, name)).tobytes())

    def signatures(self) -> ImageSignatures:
        """Of all photographs in the order of the index. Nothing can be added after it."""
        for file in self._files.values():
            file.close()
        if not self._rows:
            return ImageSignatures.from_thumbnails([])
        shapes = {name: (self._rows, *shape) for name, shape in SIGNATURE_SHAPES.items()}
        return ImageSignatures(
            **{name: np.memmap(self._folder / name, np.uint8, "r", 0, shapes[name]) for name in shapes}
        )

    def index(self) -> pa.Table:
        """The rows of all photographs. Nothing can be added after it."""
        self._writer.close()
        return _mapped(self._folder / "index")

    def index_without(self, image_ids: Collection[str]) -> pa.Table:
        """The rows of the other photographs."""
        left_out = pa.array(list(image_ids), pa.string())
        with pa.ipc.new_file(str(self._folder / "kept"), INDEX_SCHEMA) as writer:
            for batch in _mapped(self._folder / "index").to_batches():
                writer.write_batch(batch.filter(pc.invert(pc.is_in(batch["image_id"], left_out))))
        return _mapped(self._folder / "kept")


def _mapped(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


class Texts(Sequence[str]):
    """A column of texts; few are Python objects at a time."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: Any) -> Any:
        return self._column[row].as_py() if isinstance(row, int) else self._column[row].to_pylist()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), BATCH):
            yield from self._column.slice(start, BATCH).to_pylist()

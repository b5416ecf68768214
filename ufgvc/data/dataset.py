"""The data on storage: immutable Parquet parts, manifests that name them, and the fingerprint that ties them together.

Part k of regions and masks holds the image_ids of part k of images in the same order: whoever needs both opens the files of one name.
"""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from ufgvc.core.errors import UserError
from ufgvc.core.storage import Store, open_store, read_parquet_file, write_parquet_file
from ufgvc.core.types import Box

SPLITS = ("train", "test")
DATASET_FILE, MANIFEST_FILE, IMAGES = "dataset.json", "manifest.json", "images"
VERSION = 1

_BOX = pa.struct([("region", pa.string()), *((name, pa.float32()) for name in ("x0", "y0", "x1", "y1", "score"))])
SCHEMAS: dict[str, pa.Schema] = {
    "images": pa.schema(
        [
            ("image_id", pa.string()),
            ("image", pa.binary()),  # the encoded file without its metadata
            ("orientation", pa.int8()),  # EXIF 1-8
            ("height", pa.int32()),  # pixels of the upright photograph
            ("width", pa.int32()),
            ("label", pa.int32()),
            ("cultivar", pa.string()),
            ("split", pa.string()),
            ("group", pa.string()),  # the plant; null if unknown
            ("sha256", pa.string()),  # of the original file
        ]
    ),
    "regions": pa.schema([("image_id", pa.string()), ("boxes", pa.list_(_BOX))]),
    "masks": pa.schema([("image_id", pa.string()), ("vein", pa.binary()), ("contour", pa.binary())]),
}
INDEX_COLUMNS = [name for name in SCHEMAS["images"].names if name != "image"]
_COMMANDS = {"images": "ingest", "regions/annotated": "ingest", "regions/detected": "mask", "masks": "mask"}
_ROW_GROUP_BYTES = 16 << 20


@dataclass(frozen=True)
class Shard:
    """One Parquet file. name: "train-00000", the same in every folder. file: its immutable file name. digest: hash of its content."""

    name: str
    file: str
    split: str
    rows: int
    digest: str = ""


@dataclass(frozen=True)
class Manifest:
    """What a folder holds. source_fingerprint: fingerprint of the images it was made from ("" for images themselves)."""

    parts: tuple[Shard, ...]
    fingerprint: str
    source_fingerprint: str
    schema: str
    extra: dict[str, Any] = field(default_factory=dict)

    def part(self, name: str) -> Shard:
        return next(part for part in self.parts if part.name == name)


@dataclass(frozen=True)
class Dataset:
    """An ingested data set. classes: cultivar names in label order. counts: photographs per split."""

    store: Store
    name: str
    classes: tuple[str, ...]
    fingerprint: str
    parts: tuple[Shard, ...]
    counts: dict[str, int]


def open_dataset(uri: str) -> Dataset:
    """Reads <data>/dataset.json. UserError with the command to run if there is none."""
    store = open_store(uri)
    try:
        found = store.read_json(DATASET_FILE)
    except FileNotFoundError:
        raise UserError(
            "holds no data set", where=store.uri, fix=f"run `ufgvc ingest --source <photographs> --data {store.uri}`"
        ) from None
    if found.get("version") != VERSION:
        raise UserError(
            f"was written in version {found.get('version')} of the layout, this program reads {VERSION}",
            where=store.uri,
            fix="run `ufgvc ingest` again",
        )
    parts = tuple(Shard(**part) for part in found["parts"])
    return Dataset(store, found["name"], tuple(found["classes"]), found["fingerprint"], parts, dict(found["counts"]))


def read_manifest(dataset: Dataset, folder: str) -> Manifest:
    """The manifest of a folder of this data set. UserError if it is missing or was made from other images, with the command to run."""
    command = f"run `ufgvc {_command(folder)} --data {dataset.store.uri}`"
    where = f"{dataset.store.uri}/{folder}"
    try:
        found = dataset.store.child(folder).read_json(MANIFEST_FILE)
    except FileNotFoundError:
        raise UserError("is not there", where=where, fix=command) from None
    if folder != IMAGES and found["source_fingerprint"] != dataset.fingerprint:
        raise UserError("was made from other images than those that are there now", where=where, fix=f"{command} again")
    parts = tuple(Shard(**part) for part in found["parts"])
    return Manifest(parts, found["fingerprint"], found["source_fingerprint"], found["schema"], found["extra"])


def read_images(dataset: Dataset, part: Shard | str) -> pa.Table:
    """All columns of one part of the images."""
    return _read(dataset, IMAGES, part if isinstance(part, Shard) else _named(dataset.parts, part))


def read_part(dataset: Dataset, folder: str, part: Shard | str, columns: Sequence[str] | None = None) -> pa.Table:
    """One part of regions or masks; `part` may be the images' part or its name. Reads the manifest when it has to find the file."""
    name = part if isinstance(part, str) else part.name
    return _read(dataset, folder, read_manifest(dataset, folder).part(name), columns)


def read_index(dataset: Dataset, split: str | None = None) -> pa.Table:
    """Every column of the images but the bytes, plus part (string) and row (int32, the row in the part), in part order."""
    parts = [part for part in dataset.parts if split in (None, part.split)]

    def read(part: Shard) -> pa.Table:
        table = _read(dataset, IMAGES, part, INDEX_COLUMNS)
        table = table.append_column("part", pa.array([part.name] * table.num_rows, pa.string()))
        return table.append_column("row", pa.array(range(table.num_rows), pa.int32()))

    if not parts:
        known = ", ".join(dataset.counts)
        raise UserError(f"has no split {split!r}", where=dataset.store.uri, fix=f"choose from {known}")
    with ThreadPoolExecutor(8) as pool:
        return pa.concat_tables(list(pool.map(read, parts)))


@dataclass(frozen=True)
class ShardWriter:
    """Writes the parts of one folder and, last, the manifest that names them. Picklable: `write` may run in Ray tasks.

    store: the data set's store.  source_fingerprint: fingerprint of the images.  schema: a key of SCHEMAS.
    """

    store: Store
    folder: str
    source_fingerprint: str
    schema: str

    def write(self, part_name: str, split: str, table: pa.Table) -> Shard:
        """Writes a part under a file name that nobody has used before, so that readers of the old part are not disturbed."""
        if part_name.rpartition("-")[0] != split:
            raise ValueError(f"part {part_name!r} cannot hold split {split!r}")
        table = table.select(SCHEMAS[self.schema].names).cast(SCHEMAS[self.schema]).replace_schema_metadata(None)
        file = f"{part_name}.{uuid.uuid4().hex[:8]}.parquet"
        per_row = table.nbytes / max(table.num_rows, 1)
        rows = max(1, min(64, math.floor(_ROW_GROUP_BYTES / max(per_row, 1))))
        write_parquet_file(self.store.child(self.folder), file, table, row_group_size=rows)
        return Shard(part_name, file, split, table.num_rows, _digest(table))

    def commit(self, parts: Sequence[Shard], **extra: Any) -> Manifest:
        """Writes the manifest, and then deletes the files that it does not name."""
        manifest = self.write_manifest(parts, **extra)
        self.delete_unreferenced(parts)
        return manifest

    def write_manifest(self, parts: Sequence[Shard], **extra: Any) -> Manifest:
        ordered = tuple(sorted(parts, key=_part_order))
        content = [self.schema, self.source_fingerprint, [(part.name, part.digest) for part in ordered]]
        fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        manifest = Manifest(ordered, fingerprint, self.source_fingerprint, self.schema, extra)
        self.store.child(self.folder).write_json(MANIFEST_FILE, {"version": VERSION, **asdict(manifest)})
        return manifest

    def delete_unreferenced(self, parts: Sequence[Shard]) -> None:
        """Deletes the folder's files that `parts` do not name."""
        folder, named = self.store.child(self.folder), {part.file for part in parts} | {MANIFEST_FILE}
        folder.delete(*(file for file in folder.list(recursive=False) if file not in named))


def write_dataset(
    store: Store, name: str, classes: Sequence[str], index: pa.Table, parts: Sequence[Shard], source: str
) -> Dataset:
    """Writes dataset.json, which makes the images count. index: at least image_id, sha256, label and split of every photograph."""
    fingerprint = fingerprint_of(index)
    splits = index["split"].to_pylist()
    counts = {split: splits.count(split) for split in SPLITS if split in splits}
    ordered = tuple(sorted(parts, key=_part_order))
    written = {
        "version": VERSION,
        "name": name,
        "fingerprint": fingerprint,
        "counts": counts,
        "classes": list(classes),
        "source": source,
        "parts": [asdict(part) for part in ordered],
    }
    store.write_json(DATASET_FILE, written)
    return Dataset(store, name, tuple(classes), fingerprint, ordered, counts)


def fingerprint_of(index: pa.Table) -> str:
    """SHA-256 over (image_id, sha256, label, split) of every photograph, sorted; the parts they lie in do not matter."""
    rows = zip(*(index[name].to_pylist() for name in ("image_id", "sha256", "label", "split")), strict=True)
    digest = hashlib.sha256()
    for row in sorted(rows):
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def to_boxes(value: list[dict[str, Any]] | None) -> list[Box] | None:
    """A cell of the column `boxes` as Box objects. None: not annotated; []: annotated, and none there."""
    return None if value is None else [Box(**box) for box in value]


def from_boxes(boxes: Sequence[Box] | None) -> list[dict[str, Any]] | None:
    """The opposite of `to_boxes`."""
    return None if boxes is None else [asdict(box) for box in boxes]


def part_name(split: str, number: int) -> str:
    return f"{split}-{number:05d}"


def _part_order(part: Shard) -> tuple[int, str]:
    return SPLITS.index(part.split), part.name


def _named(parts: Sequence[Shard], name: str) -> Shard:
    return next(part for part in parts if part.name == name)


def _command(folder: str) -> str:
    top, _, kind = folder.partition("/")
    if top == "masks" and kind != "box":
        return f"mask --mask-kind {kind}"
    return _COMMANDS.get(folder) or _COMMANDS[top]


def _read(dataset: Dataset, folder: str, part: Shard, columns: Sequence[str] | None = None) -> pa.Table:
    store = dataset.store.child(folder)
    try:
        return read_parquet_file(store, part.file, list(columns) if columns else None)
    except FileNotFoundError:
        fix = f"run `ufgvc {_command(folder)} --data {dataset.store.uri}` again"
        raise UserError("is named by the manifest but is gone", where=f"{store.uri}/{part.file}", fix=fix) from None


class _HashSink:
    """A file for pyarrow that keeps only the hash of what is written."""

    closed = False

    def __init__(self) -> None:
        self.hash = hashlib.sha256()

    def write(self, data: Any) -> int:
        self.hash.update(data)
        return len(data)

    def flush(self) -> None: ...

    def close(self) -> None: ...


def _digest(table: pa.Table) -> str:
    """SHA-256 of the rows, whatever the file's compression and row groups."""
    sink = _HashSink()
    with pa.PythonFile(sink, mode="w") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table.combine_chunks())
    return sink.hash.hexdigest()

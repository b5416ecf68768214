"""The storage format of a data set: immutable Parquet shards, manifests that list them, and fingerprints.

Shard k of regions and masks holds the image_ids of shard k of images, in the same order, so nothing has to be joined.
"""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ufgvc.core.errors import UserError
from ufgvc.core.parquet import read_parquet_file, write_parquet_file
from ufgvc.core.region_names import PAPER_REGIONS, join_names
from ufgvc.core.storage import Store, open_store
from ufgvc.data.fingerprints import digest_of, fingerprint_of
from ufgvc.data.schemas import INDEX_COLUMNS, schema_of

SPLITS = ("train", "test")
DATASET_FILE, MANIFEST_FILE, IMAGES = "dataset.json", "manifest.json", "images"
VERSION = 1
_COMMANDS = {"images": "ingest", "regions/annotated": "ingest", "regions/detected": "mask", "masks": "mask"}
_ROW_GROUP_BYTES = 16 << 20


@dataclass(frozen=True)
class Shard:
    """One Parquet file.

    name: such as "train-00000", the same in every folder.  file: its file name, never used twice.  digest: SHA-256 of
    its rows.
    """

    name: str
    file: str
    split: str
    rows: int
    digest: str = ""


@dataclass(frozen=True)
class Manifest:
    """The contents of a folder, as its manifest.json lists them.

    fingerprint: hash of the rows.  source_fingerprint: fingerprint of the images that the folder was made from; "" for
    the images themselves.  schema: images, regions or masks (`schema_of`).  extra: what the command that wrote the
    folder adds; of masks also the names of their regions.
    """

    shards: tuple[Shard, ...]
    fingerprint: str
    source_fingerprint: str
    schema: str
    extra: dict[str, Any] = field(default_factory=dict)

    def shard(self, name: str) -> Shard:
        """The shard of that name. StopIteration if there is none."""
        return next(shard for shard in self.shards if shard.name == name)


@dataclass(frozen=True)
class Dataset:
    """An ingested data set.  classes: cultivar names in label order.  shards: of images.  counts: images per split.

    regions: names of the regions that its boxes and masks may have.
    """

    store: Store
    name: str
    classes: tuple[str, ...]
    fingerprint: str
    shards: tuple[Shard, ...]
    counts: dict[str, int]
    regions: tuple[str, ...] = PAPER_REGIONS


def open_dataset(uri: str) -> Dataset:
    """Reads <data>/dataset.json. UserError with the command to run if there is none, or one of another version."""
    store = open_store(uri)
    try:
        found = store.read_json(DATASET_FILE)
    except FileNotFoundError:
        raise UserError(
            "holds no data set", where=store.uri, fix=f"run `ufgvc ingest --source <photographs> --data {store.uri}`"
        ) from None
    if found.get("version") != VERSION:
        raise UserError(
            f"has version {found.get('version')} of the storage format, this program reads version {VERSION}",
            where=store.uri,
            fix="run `ufgvc ingest` again",
        )
    shards = tuple(Shard(**shard) for shard in found["shards"])
    regions = tuple(found.get("regions", PAPER_REGIONS))
    return Dataset(
        store, found["name"], tuple(found["classes"]), found["fingerprint"], shards, dict(found["counts"]), regions
    )


def read_manifest(dataset: Dataset, folder: str) -> Manifest:
    """Reads the manifest of a folder of this data set.

    UserError if it is missing, was made from other images, or holds masks of other regions; it names the command to
    run.
    """
    command = f"run `ufgvc {_command(folder)} --data {dataset.store.uri}`"
    where = f"{dataset.store.uri}/{folder}"
    try:
        found = dataset.store.child(folder).read_json(MANIFEST_FILE)
    except FileNotFoundError:
        raise UserError("does not exist", where=where, fix=command) from None
    if folder != IMAGES and found["source_fingerprint"] != dataset.fingerprint:
        raise UserError("was made from other images than the data set has now", where=where, fix=f"{command} again")
    regions = tuple(found["extra"].get("regions", PAPER_REGIONS))
    if found["schema"] == "masks" and regions != dataset.regions:
        what = f"has masks of {join_names(regions)}, the regions of the data set are {join_names(dataset.regions)}"
        raise UserError(what, where=where, fix=f"{command} again")
    shards = tuple(Shard(**shard) for shard in found["shards"])
    return Manifest(shards, found["fingerprint"], found["source_fingerprint"], found["schema"], found["extra"])


def read_images(dataset: Dataset, shard: Shard | str) -> pa.Table:
    """Reads all columns of one shard of the images. shard: or its name."""
    found = shard if isinstance(shard, Shard) else next(each for each in dataset.shards if each.name == shard)
    return _read(dataset, IMAGES, found)


def read_shard(dataset: Dataset, folder: str, shard: Shard | str, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads one shard of regions or masks.

    shard: of the images, or its name.  columns: None reads all. UserError as for `read_manifest`.
    """
    name = shard if isinstance(shard, str) else shard.name
    return _read(dataset, folder, read_manifest(dataset, folder).shard(name), columns)


def read_index(dataset: Dataset, split: str | None = None) -> pa.Table:
    """Reads INDEX_COLUMNS of all images in shard order, and adds the columns shard (its name) and row (in the shard).

    split: None reads all. UserError if the data set has no such split.
    """
    shards = [shard for shard in dataset.shards if split in (None, shard.split)]

    def read(shard: Shard) -> pa.Table:
        table = _read(dataset, IMAGES, shard, INDEX_COLUMNS)
        table = table.append_column("shard", pa.array([shard.name] * table.num_rows, pa.string()))
        return table.append_column("row", pa.array(range(table.num_rows), pa.int32()))

    if not shards:
        known = ", ".join(dataset.counts)
        raise UserError(f"has no split {split!r}", where=dataset.store.uri, fix=f"choose from {known}")
    with ThreadPoolExecutor(8) as pool:
        return pa.concat_tables(list(pool.map(read, shards)))


@dataclass(frozen=True)
class ShardWriter:
    """Writes the shards of one folder and, last, the manifest that lists them. Picklable, for use in Ray tasks.

    store: the data set's store.  source_fingerprint: fingerprint of the images.  schema: images, regions or masks.
    regions: of the data set, the columns of masks.
    """

    store: Store
    folder: str
    source_fingerprint: str
    schema: str
    regions: tuple[str, ...] = PAPER_REGIONS

    def write(self, shard_name: str, split: str, table: pa.Table) -> Shard:
        """Writes a shard under a new file name, so that readers of an older shard of that name are not disturbed."""
        if shard_name.rpartition("-")[0] != split:
            raise ValueError(f"shard {shard_name!r} cannot hold split {split!r}")
        schema = schema_of(self.schema, self.regions)
        table = table.select(schema.names).cast(schema).replace_schema_metadata(None)
        file = f"{shard_name}.{uuid.uuid4().hex[:8]}.parquet"
        per_row = table.nbytes / max(table.num_rows, 1)
        rows = max(1, min(64, math.floor(_ROW_GROUP_BYTES / max(per_row, 1))))
        write_parquet_file(self.store.child(self.folder), file, table, row_group_size=rows)
        return Shard(shard_name, file, split, table.num_rows, digest_of(table))

    def commit(self, shards: Sequence[Shard], **extra: Any) -> Manifest:
        """Writes the manifest, then deletes the files that it does not list."""
        manifest = self.write_manifest(shards, **extra)
        self.delete_unreferenced(shards)
        return manifest

    def write_manifest(self, shards: Sequence[Shard], **extra: Any) -> Manifest:
        """Writes manifest.json with the shards in order. extra: JSON values for `Manifest.extra`."""
        ordered = tuple(sorted(shards, key=_shard_order))
        content = [self.schema, self.source_fingerprint, [(shard.name, shard.digest) for shard in ordered]]
        fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        if self.schema == "masks":
            extra = {"regions": list(self.regions), **extra}
        manifest = Manifest(ordered, fingerprint, self.source_fingerprint, self.schema, extra)
        self.store.child(self.folder).write_json(MANIFEST_FILE, {"version": VERSION, **asdict(manifest)})
        return manifest

    def delete_unreferenced(self, shards: Sequence[Shard]) -> None:
        """Deletes the folder's files that are not among `shards`."""
        folder, named = self.store.child(self.folder), {shard.file for shard in shards} | {MANIFEST_FILE}
        folder.delete(*(file for file in folder.list(recursive=False) if file not in named))


def write_dataset(
    store: Store,
    name: str,
    classes: Sequence[str],
    index: pa.Table,
    shards: Sequence[Shard],
    source: str,
    regions: tuple[str, ...] = PAPER_REGIONS,
) -> Dataset:
    """Writes dataset.json, which makes the shards of images current.

    index: a table with at least image_id, sha256, label and split of every image.
    """
    fingerprint = fingerprint_of(index)
    found = split_counts(index)
    counts = {split: found[split] for split in SPLITS if found[split]}
    ordered = tuple(sorted(shards, key=_shard_order))
    written = {
        "version": VERSION,
        "name": name,
        "fingerprint": fingerprint,
        "counts": counts,
        "classes": list(classes),
        "regions": list(regions),
        "source": source,
        "shards": [asdict(shard) for shard in ordered],
    }
    store.write_json(DATASET_FILE, written)
    return Dataset(store, name, tuple(classes), fingerprint, ordered, counts, regions)


def split_counts(index: pa.Table) -> Counter[str]:
    """Images of each split."""
    return Counter({str(each["values"]): int(each["counts"]) for each in pc.value_counts(index["split"]).to_pylist()})


def shard_name(split: str, number: int) -> str:
    """For example "train-00000"."""
    return f"{split}-{number:05d}"


def _shard_order(shard: Shard) -> tuple[int, str]:
    return SPLITS.index(shard.split), shard.name


def _command(folder: str) -> str:
    """The command that writes a folder."""
    top, _, kind = folder.partition("/")
    if top == "masks" and kind != "box":
        return f"mask --mask-kind {kind}"
    return _COMMANDS.get(folder) or _COMMANDS[top]


def _read(dataset: Dataset, folder: str, shard: Shard, columns: Sequence[str] | None = None) -> pa.Table:
    store = dataset.store.child(folder)
    try:
        return read_parquet_file(store, shard.file, list(columns) if columns else None)
    except FileNotFoundError:
        fix = f"run `ufgvc {_command(folder)} --data {dataset.store.uri}` again"
        raise UserError(
            "is listed in the manifest but does not exist", where=f"{store.uri}/{shard.file}", fix=fix
        ) from None

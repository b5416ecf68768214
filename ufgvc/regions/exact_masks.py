"""Copies masks of kind exact from a source folder with masks/<region>/, as `ufgvc synth` writes it."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from ufgvc.core.config import short_key
from ufgvc.core.errors import UserError
from ufgvc.core.region_names import join_names
from ufgvc.core.storage import Store, open_store
from ufgvc.data.dataset import Dataset, Shard, ShardWriter, read_index
from ufgvc.data.images import BadImage
from ufgvc.data.mask_png import decode_mask, encode_mask
from ufgvc.data.readers.listing import image_ids
from ufgvc.data.readers.scan import find_photographs, scan
from ufgvc.data.schemas import masks_schema
from ufgvc.regions.mask_results import MaskResult, find_existing, run_on_shards
from ufgvc.runtime.session import ray_session, runs_in_process
from ufgvc.runtime.tasks import one_task_each, run_tasks
from ufgvc.tracking.context import Context

log = logging.getLogger(__name__)
EXACT = "exact"
_FOLDER = f"masks/{EXACT}"
_PHOTOGRAPHS, _MASKS = "images/", "masks/"
_READ_THREADS = 8  # a task waits for storage most of the time


@dataclass(frozen=True)
class MaskFolder:
    """The masks of a source: masks/<region>/<image id>.png, 1-bit PNGs of the size of the upright photographs.

    photographs: {image id: path} of the photographs in the source.  key: hash of the names and sizes of all files.
    """

    store: Store
    photographs: dict[str, str]
    masks: frozenset[str]
    key: str

    def where(self, name: str) -> str:
        """URI of a file, for error messages."""
        return f"{self.store.uri}/{name}"


def exact_masks(dataset: Dataset, source: str | None, context: Context = Context()) -> MaskResult:
    """Writes <data>/masks/exact for every image.

    source: folder or URI in the released layout, with masks/<region>/. Nothing is done if the masks exist, made from
    the same images and files, unless `context.fresh`. UserError names a mask that is missing, damaged, no 1-bit PNG or
    of another size than its image, and a photograph of the source that differs from the image of that name.
    """
    started = time.monotonic()
    if source is None:
        raise UserError(
            "exact masks need a source",
            where="--mask-kind exact",
            fix="give the folder with the photographs and their masks as --source",
        )
    folder = open_masks(source, dataset.regions)
    key = short_key({"kind": EXACT, "source": folder.store.uri, "listing": folder.key})
    if not context.fresh and (manifest := find_existing(dataset, _FOLDER, key)):
        log.info("mask: %s exists, made from the same images and files", _FOLDER)
        return MaskResult.from_manifest(dataset, EXACT, manifest, started, found=True)
    _check_complete(folder, read_index(dataset)["image_id"].to_pylist(), dataset.regions)
    writer = ShardWriter(dataset.store, _FOLDER, dataset.fingerprint, "masks", dataset.regions)

    def copy(row: dict[str, Any]) -> dict[str, Any]:
        shard = copy_shard(dataset, folder, writer, Shard(**json.loads(row["shard"])))
        return {"masks": json.dumps(asdict(shard))}

    if runs_in_process(context.ray, sum(dataset.counts.values())):
        rows = run_on_shards(dataset, lambda shards: map(copy, shards))  # which reads in threads
    else:
        with ray_session(context.ray):
            rows = run_on_shards(dataset, lambda shards: run_tasks(one_task_each(shards).map(copy).iter_rows()))
    shards = [Shard(**json.loads(row["masks"])) for row in rows]
    origin = {"source": folder.store.uri, "listing": folder.key}
    complete = sum(shard.rows for shard in shards)
    manifest = writer.commit(shards, key=key, kind=EXACT, complete=complete, failed=[], origin=origin)
    return MaskResult.from_manifest(dataset, EXACT, manifest, started)


def open_masks(source: str, regions: Sequence[str]) -> MaskFolder:
    """Lists the photographs of a source and their masks of these regions. UserError if it has no such masks."""
    store = open_store(source)
    found = scan(store)
    files = {path: size for path, size in found.sizes.items() if path.startswith((_PHOTOGRAPHS, _MASKS))}
    masks = frozenset(path for path in files if path.startswith(tuple(f"{_MASKS}{region}/" for region in regions)))
    if not masks:
        fix = join_names([f"masks/{region}/<image id>.png" for region in regions])
        what = f"holds no masks of {join_names(regions)}"
        raise UserError(what, where=store.uri, fix=f"expected {fix}, 1-bit PNGs as `ufgvc synth` writes them")
    photographs = [
        path.removeprefix(_PHOTOGRAPHS) for path in find_photographs(found).sizes if path.startswith(_PHOTOGRAPHS)
    ]
    by_id = {image_id: f"{_PHOTOGRAPHS}{path}" for path, image_id in image_ids(photographs).items()}
    return MaskFolder(store, by_id, masks, short_key(sorted(files.items())))


def copy_shard(dataset: Dataset, folder: MaskFolder, writer: ShardWriter, shard: Shard) -> Shard:
    """Writes the masks of one shard of the images. UserError names a bad file."""
    rows = read_index(replace(dataset, shards=(shard,))).to_pylist()
    with ThreadPoolExecutor(_READ_THREADS) as pool:
        masks = list(pool.map(lambda row: _masks_of(folder, row, dataset.regions), rows))
    return writer.write(shard.name, shard.split, pa.Table.from_pylist(masks, masks_schema(dataset.regions)))


def _masks_of(folder: MaskFolder, row: dict[str, Any], regions: Sequence[str]) -> dict[str, Any]:
    """The row of the table of masks for a row of the index."""
    photograph = folder.photographs.get(row["image_id"])
    # All synthetic sets have the same file names, so the photographs are compared by their bytes.
    if photograph and hashlib.sha256(folder.store.read_bytes(photograph)).hexdigest() != row["sha256"]:
        what = "is not the photograph that the data set has under this name, so the masks may be of another leaf"
        raise UserError(
            what, where=folder.where(photograph), fix="give the folder that was ingested, or run `ufgvc ingest` again"
        )
    size = row["height"], row["width"]
    return {"image_id": row["image_id"]} | {
        region: _mask(folder, _name(row["image_id"], region), size) for region in regions
    }


def _mask(folder: MaskFolder, name: str, size: tuple[int, int]) -> bytes:
    """Reads and checks a mask, and encodes it again, so that equal masks give equal bytes."""
    try:
        mask = decode_mask(folder.store.read_bytes(name))
    except BadImage as error:
        raise UserError(error.reason, where=folder.where(name), fix="save the mask as a 1-bit PNG") from None
    if mask.shape != size:
        has, needs = (f"{width} x {height}" for height, width in (mask.shape, size))
        raise UserError(
            f"has {has} pixels, its photograph {needs}",
            where=folder.where(name),
            fix="save it in the photograph's size",
        )
    return encode_mask(mask)


def _check_complete(folder: MaskFolder, ids: list[str], regions: Sequence[str]) -> None:
    """UserError if an image has no mask of a region."""
    missing = [name for image_id in ids for region in regions if (name := _name(image_id, region)) not in folder.masks]
    if missing:
        more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
        fix = "give the folder that was ingested; a mask is named after the image id of its photograph"
        raise UserError(f"this mask is missing{more}", where=folder.where(missing[0]), fix=fix)


def _name(image_id: str, region: str) -> str:
    return f"{_MASKS}{region}/{image_id}.png"

"""Masks of kind exact: those that lie beside the photographs of a source, as `ufgvc synth` writes them. Nothing is estimated."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from ufgvc.core.config import short_key
from ufgvc.core.errors import UserError
from ufgvc.core.storage import Store, open_store
from ufgvc.core.types import REGIONS
from ufgvc.data.dataset import SCHEMAS, Dataset, Shard, ShardWriter, read_index
from ufgvc.data.images import BadImage, decode_mask, encode_mask
from ufgvc.data.readers.listing import image_ids
from ufgvc.data.readers.scan import find_photographs, scan
from ufgvc.regions.mask_results import MaskResult, existing, finish, result_of, shard_tasks
from ufgvc.runtime.session import ray_session
from ufgvc.tracking.context import Context

log = logging.getLogger(__name__)
EXACT = "exact"
_FOLDER = f"masks/{EXACT}"
_PHOTOGRAPHS, _MASKS = "images/", "masks/"
_READERS = 8  # files that a task reads at once: they are small, and an object store answers late


@dataclass(frozen=True)
class MaskFolder:
    """A source's masks. photographs: path of every image id whose photograph lies there too. key: changes with its files' names or sizes.

    The mask of an image id and a region is masks/<region>/<image id>.png, a 1-bit PNG of the upright photograph's size.
    """

    store: Store
    photographs: dict[str, str]
    masks: frozenset[str]
    key: str

    def where(self, name: str) -> str:
        return f"{self.store.uri}/{name}"


def exact_masks(dataset: Dataset, source: str | None, context: Context = Context()) -> MaskResult:
    """Writes <data>/masks/exact for every photograph, from a source in the released layout with masks/vein and masks/contour.

    Nothing is done if they are there from the same images and files, unless `context.fresh`. UserError with the file's name for a mask that is
    missing, damaged, no 1-bit PNG or not of the photograph's size, and for a source with another photograph of that name.
    """
    started = time.monotonic()
    if source is None:
        raise UserError(
            "exact masks are not found but given",
            where="--kind exact",
            fix="give the leaves that they lie beside as --source",
        )
    folder = open_masks(source)
    key = short_key({"kind": EXACT, "source": folder.store.uri, "listing": folder.key})
    if not context.fresh and (there := existing(dataset, _FOLDER, key)):
        log.info("mask: %s is there from the same images and files", _FOLDER)
        return result_of(dataset, EXACT, there, started, found=True)
    _need_all(folder, read_index(dataset)["image_id"].to_pylist())
    writer = ShardWriter(dataset.store, _FOLDER, dataset.fingerprint, "masks")

    def copy(row: dict[str, Any]) -> dict[str, Any]:
        shard = copy_shard(dataset, folder, writer, Shard(**json.loads(row["shard"])))
        return {"masks": json.dumps(asdict(shard))}

    with ray_session(context.ray):
        rows = finish(shard_tasks(dataset).map(copy, num_cpus=1), len(dataset.shards))
    shards = [Shard(**json.loads(row["masks"])) for row in rows]
    origin = {"source": folder.store.uri, "listing": folder.key}
    complete = sum(shard.rows for shard in shards)
    manifest = writer.commit(shards, key=key, kind=EXACT, complete=complete, failed=[], origin=origin)
    return result_of(dataset, EXACT, manifest, started)


def open_masks(source: str) -> MaskFolder:
    """Lists a source's photographs and masks. UserError if it has no masks."""
    store = open_store(source)
    found = scan(store)
    files = {path: size for path, size in found.sizes.items() if path.startswith((_PHOTOGRAPHS, _MASKS))}
    masks = frozenset(path for path in files if path.startswith(tuple(f"{_MASKS}{region}/" for region in REGIONS)))
    if not masks:
        fix = " and ".join(f"masks/{region}/<image id>.png" for region in REGIONS)
        raise UserError("holds no masks", where=store.uri, fix=f"expected {fix}, as `ufgvc synth` writes them")
    photographs = [
        path.removeprefix(_PHOTOGRAPHS) for path in find_photographs(found).sizes if path.startswith(_PHOTOGRAPHS)
    ]
    by_id = {image_id: f"{_PHOTOGRAPHS}{path}" for path, image_id in image_ids(photographs).items()}
    return MaskFolder(store, by_id, masks, short_key(sorted(files.items())))


def copy_shard(dataset: Dataset, folder: MaskFolder, writer: ShardWriter, shard: Shard) -> Shard:
    """Writes the masks of one shard of the images, in its order."""
    rows = read_index(replace(dataset, shards=(shard,))).to_pylist()
    with ThreadPoolExecutor(_READERS) as pool:
        masks = list(pool.map(lambda row: _masks_of(folder, row), rows))
    return writer.write(shard.name, shard.split, pa.Table.from_pylist(masks, SCHEMAS["masks"]))


def _masks_of(folder: MaskFolder, row: dict[str, Any]) -> dict[str, Any]:
    """row: one of the index."""
    photograph = folder.photographs.get(row["image_id"])
    # Every synthetic set has the same names: only the bytes tell whether these masks belong to these photographs.
    if photograph and hashlib.sha256(folder.store.read_bytes(photograph)).hexdigest() != row["sha256"]:
        what = "is not the photograph that the data set has under this name, so its masks may be those of another leaf"
        raise UserError(
            what, where=folder.where(photograph), fix="give the folder that was ingested, or run `ufgvc ingest` again"
        )
    size = row["height"], row["width"]
    return {"image_id": row["image_id"]} | {
        region: _mask(folder, _name(row["image_id"], region), size) for region in REGIONS
    }


def _mask(folder: MaskFolder, name: str, size: tuple[int, int]) -> bytes:
    """The mask as it is stored: encoded anew, so that the same mask gives the same bytes whoever wrote it."""
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


def _need_all(folder: MaskFolder, ids: list[str]) -> None:
    missing = [name for image_id in ids for region in REGIONS if (name := _name(image_id, region)) not in folder.masks]
    if missing:
        more = f", and so are {len(missing) - 1} more" if len(missing) > 1 else ""
        fix = "a mask has the name of its photograph's image id; give the folder that was ingested"
        raise UserError(f"this mask is missing{more}", where=folder.where(missing[0]), fix=fix)


def _name(image_id: str, region: str) -> str:
    return f"{_MASKS}{region}/{image_id}.png"

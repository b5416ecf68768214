"""Photographs and boxes from anywhere into the layout of data/dataset.py. The driver holds only the small index."""

from __future__ import annotations

import csv
import io
import logging
import pickle
import re
from collections import Counter
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
from pydantic import Field

from ufgvc.core.config import Settings
from ufgvc.core.errors import UserError
from ufgvc.core.storage import Store, open_store, read_parquet_file
from ufgvc.data import validation as checks
from ufgvc.data.dataset import (
    DATASET_FILE,
    IMAGES,
    Dataset,
    Shard,
    ShardWriter,
    fingerprint_of,
    open_dataset,
    read_images,
    read_manifest,
    write_dataset,
)
from ufgvc.data.duplicates import Looks, groups_of_duplicates
from ufgvc.data.packing import Job, Packed, Packer, plan_parts
from ufgvc.data.readers import ReaderName, list_source
from ufgvc.data.readers.annotations import PhotoBoxes, read_annotations
from ufgvc.data.readers.box_classes import BoxOrientation, BoxRules
from ufgvc.data.readers.listing import Listing, check_names, set_groups
from ufgvc.data.readers.scan import Rejected
from ufgvc.data.splits import split_photos
from ufgvc.runtime.session import RaySettings, ray_session
from ufgvc.runtime.tasks import one_task_each, run_tasks

log = logging.getLogger(__name__)
REGIONS_FOLDER = "regions/annotated"
REJECTED_FILE = "rejected.csv"


class IngestSettings(Settings):
    """How a source is read."""

    on_bad_image: Literal["error", "skip"] = "error"
    """error: stop at bad inputs and name them; skip: leave them out and list them in <data>/rejected.csv"""
    on_duplicate: checks.OnDuplicate = "error"
    """one picture (also re-saved, resized, turned) in both splits or under two cultivars: stop (error), keep-train or keep both (warn)"""
    box_rules: BoxRules = "auto"
    """what numbered box classes mean: named (classes are called vein and contour), two_classes (soy), one_class (cotton)"""
    box_orientation: BoxOrientation = "auto"
    """what boxes of photographs turned by EXIF were drawn on: upright, stored pixels (old tools), or as the size in the file says"""
    label_base: Literal["auto", 0, 1] = "auto"
    """number of the first label in the source"""
    group_pattern: str | None = None
    """regular expression whose first parenthesis finds the plant in a photograph's path; a plant never is in both splits"""
    part_mb: int = Field(128, ge=1, le=1024)
    """size of a part file, in MiB"""


def ingest(
    source: str,
    data: str,
    name: str | None = None,
    reader: ReaderName = "auto",
    boxes: str | None = None,
    split: float | None = None,
    seed: int = 0,
    settings: IngestSettings | None = None,
    ray: RaySettings | None = None,
) -> Dataset:
    """Reads the photographs of `source` (a folder, bucket or table) and leaves a data set at `data`; UserError on bad inputs.

    name: of the data set; default: the last part of `data`.  boxes: where the boxes are; default: labels/ of a released folder.
    split: share of each cultivar that becomes test, for a source without a split.  What was at `data` stays until all is written.
    """
    settings = settings or IngestSettings()
    store = open_store(data)
    name = _dataset_name(name, store.uri)
    listing = list_source(source, reader, settings.label_base, without=store)
    _settle_splits(listing, source, split, seed, settings)
    stops = settings.on_bad_image == "error"
    if stops or not listing.photos:
        checks.refuse(listing.rejected, source)
    annotated = read_annotations(boxes or listing.boxes, listing, settings.box_rules)
    if stops:
        checks.refuse(annotated.rejected, source)
    checks.check_splits(Counter(photo.split or "" for photo in listing.photos), source, split)
    check_names(listing, source)
    images, regions = ShardWriter(store, IMAGES, "", "images"), ShardWriter(store, REGIONS_FOLDER, "", "regions")
    try:
        content = _write_parts(listing, annotated, store, images, regions, source, settings, ray)
        checks.check_splits(Counter(content.index["split"].to_pylist()), source, split)
    except BaseException:
        _sweep_back(store, images, regions)
        raise
    checks.warn_of_gaps(listing, content.index)
    # dataset.json makes the new images count: until it is written, what was there before is whole.
    regions = ShardWriter(store, REGIONS_FOLDER, fingerprint_of(content.index), "regions")
    images.write_manifest(content.images)
    regions.write_manifest(content.regions, rules=annotated.rules, annotated=len(annotated.by_path))
    dataset = write_dataset(store, name, listing.classes, content.index, content.images, source)
    images.delete_unreferenced(content.images)
    regions.delete_unreferenced(content.regions)
    _list_rejected(store, [*listing.rejected, *annotated.rejected, *content.rejected], listing.left_out)
    return dataset


@dataclass(frozen=True)
class Content:
    """The parts that were written, the columns of their images without the bytes, and what was left out on the way."""

    images: list[Shard]
    regions: list[Shard]
    index: pa.Table
    rejected: list[Rejected]


def _write_parts(
    listing: Listing,
    annotated: PhotoBoxes,
    store: Store,
    images: ShardWriter,
    regions: ShardWriter,
    source: str,
    settings: IngestSettings,
    ray: RaySettings | None,
) -> Content:
    """Packs every photograph and leaves out those that are bad or occur twice. UserError for these if the settings say so."""
    packer = Packer(listing.store, annotated.folder, annotated.rules, settings.box_orientation, images, regions)
    packed = _pack(packer, list(plan_parts(listing.photos, annotated.by_path, settings.part_mb << 20)), ray)
    rejected = [bad for one in packed for bad in one.rejected]
    index = pa.concat_tables([one.index for one in packed])
    paths = {photo.image_id: photo.path for photo in listing.photos}
    groups = groups_of_duplicates(Looks.joined([one.looks for one in packed]), index["sha256"].to_pylist())
    doubles = checks.same_picture(index, groups, paths, settings.on_duplicate)
    if settings.on_bad_image == "error":
        refused = doubles.values() if settings.on_duplicate == "error" else ()
        checks.refuse([*rejected, *refused], source, checks.DUPLICATE_HINT if refused else checks.SKIP_HINT)
    image_parts = [one.images for one in packed if one.images]
    region_parts = [one.regions for one in packed if one.regions]
    if doubles:
        image_parts, region_parts = _without(set(doubles), store, image_parts, region_parts, images, regions)
        index = index.filter(pa.array([image_id not in doubles for image_id in index["image_id"].to_pylist()]))
    if settings.box_orientation == "auto":
        annotated.warn_of_turns(index, paths)
    return Content(image_parts, region_parts, index, [*rejected, *doubles.values()])


def _dataset_name(name: str | None, uri: str) -> str:
    """A name that can be a folder of the runs and part of a model's name."""
    if name is None:
        return re.sub(r"[^A-Za-z0-9._-]+", "-", uri.rstrip("/").rpartition("/")[2]).strip(".-")[:100] or "leaves"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        fix = "use at most 100 letters, digits, dots, dashes and underscores"
        raise UserError(f"{name!r} cannot name a data set", where="--name", fix=fix)
    return name


def _settle_splits(listing: Listing, source: str, split: float | None, seed: int, settings: IngestSettings) -> None:
    """Gives every photograph a split, and takes those out that are in both."""
    set_groups(listing.photos, settings.group_pattern)
    if any(photo.split is None for photo in listing.photos):
        if split is None:
            fix = "give --split, the share of each cultivar that becomes test (for example 0.5), or sort them into train/ and test/"
            raise UserError(
                "does not say which photographs are for training and which for the test", where=source, fix=fix
            )
        if not 0 < split < 1:
            raise UserError(f"{split} is not a share between 0 and 1", where="--split", fix="for example 0.5")
        split_photos(listing.photos, split, seed)
    # Of a photograph or plant that is in both splits the training side goes, so that the test stays what the source says.
    listing.photos.sort(key=lambda photo: photo.split != "test")
    bad = checks.same_name(listing.photos)
    first = {photo.path: photo for photo in reversed(listing.photos)}
    listing.photos = [photo for photo in listing.photos if first[photo.path] is photo]
    leaks = checks.same_group(listing.photos)
    leaked = {one.path for one in leaks}
    listing.photos = [photo for photo in listing.photos if photo.path not in leaked]
    listing.rejected += bad + leaks


def _pack(packer: Packer, jobs: list[Job], settings: RaySettings | None) -> list[Packed]:
    """Runs one Ray Data task a part. Only the parts' index comes back."""

    def run(row: dict[str, bytes]) -> dict[str, bytes]:
        return {"packed": pickle.dumps(packer(pickle.loads(row["job"])))}

    with ray_session(settings):
        packed = one_task_each([{"job": pickle.dumps(job)} for job in jobs]).map(run)
        return [pickle.loads(row["packed"]) for row in run_tasks(packed.iter_rows())]


def _sweep_back(store: Store, images: ShardWriter, regions: ShardWriter) -> None:
    """Removes what a failed ingest has written; what was there before stays."""
    try:
        before = open_dataset(store.uri) if store.exists(DATASET_FILE) else None
        images.delete_unreferenced(before.parts if before else [])
        regions.delete_unreferenced(read_manifest(before, REGIONS_FOLDER).parts if before else [])
    except UserError as error:  # the failure that brought us here is the one to tell; the next ingest sweeps too
        log.warning("could not remove what was half written: %s", error.what)


def _without(
    dropped: set[str],
    store: Store,
    image_parts: list[Shard],
    region_parts: list[Shard],
    images: ShardWriter,
    regions: ShardWriter,
) -> tuple[list[Shard], list[Shard]]:
    """The parts without some photographs; only parts that hold one of them are written anew."""
    written = Dataset(store, "", (), "", tuple(image_parts), {})
    kept: tuple[list[Shard], list[Shard]] = ([], [])
    for image_part, region_part in zip(image_parts, region_parts, strict=True):
        table = read_images(written, image_part)
        keep = pa.array([image_id not in dropped for image_id in table["image_id"].to_pylist()])
        if all(keep.to_pylist()):
            kept[0].append(image_part)
            kept[1].append(region_part)
        elif any(keep.to_pylist()):
            boxes = read_parquet_file(store.child(REGIONS_FOLDER), region_part.file)
            kept[0].append(images.write(image_part.name, image_part.split, table.filter(keep)))
            kept[1].append(regions.write(region_part.name, region_part.split, boxes.filter(keep)))
    return kept


def _list_rejected(store: Store, rejected: list[Rejected], left_out: list[Rejected]) -> None:
    """Writes <data>/rejected.csv (path, reason), or removes an old one when nothing was left out."""
    lines = sorted({(bad.path, bad.reason) for bad in [*rejected, *left_out]})
    if not lines:
        if store.exists(REJECTED_FILE):
            store.delete(REJECTED_FILE)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("path", "reason"), *lines])
    store.write_text(REJECTED_FILE, text.getvalue())
    log.warning("%d inputs were left out; %s/%s lists them", len(lines), store.uri, REJECTED_FILE)

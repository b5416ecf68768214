"""Ingests photographs and boxes into the storage format of `ufgvc.data.dataset`."""

from __future__ import annotations

import csv
import io
import logging
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from ufgvc.core.config import Settings, added
from ufgvc.core.errors import UserError
from ufgvc.core.parquet import read_parquet_file
from ufgvc.core.process import cpu_count
from ufgvc.core.region_names import PAPER_REGIONS, RegionName, check_region_names
from ufgvc.core.storage import Store, open_store
from ufgvc.core.text import plural
from ufgvc.data import validation
from ufgvc.data.dataset import (
    DATASET_FILE,
    IMAGES,
    SPLITS,
    Dataset,
    Shard,
    ShardWriter,
    open_dataset,
    read_images,
    read_manifest,
    split_counts,
    write_dataset,
)
from ufgvc.data.duplicates import find_duplicates
from ufgvc.data.fingerprints import fingerprint_of
from ufgvc.data.packing import PackedShard, Packer, ShardPlan, plan_shards
from ufgvc.data.readers import ReaderName, list_source
from ufgvc.data.readers.annotations import NOT_USED, AnnotatedPhotos, read_annotations
from ufgvc.data.readers.box_classes import BoxOrientation, BoxRules, check_rules
from ufgvc.data.readers.groups import read_groups
from ufgvc.data.readers.listing import Listing, check_names, set_groups
from ufgvc.data.readers.scan import Rejected
from ufgvc.data.splits import assign_splits
from ufgvc.data.spool import Spool, Texts
from ufgvc.runtime.session import RaySettings, ray_session, runs_in_process
from ufgvc.runtime.tasks import map_in_tasks, map_in_threads, run_tasks

log = logging.getLogger(__name__)
REGIONS_FOLDER = "regions/annotated"
REJECTED_FILE = "rejected.csv"


class IngestSettings(Settings):
    """How `ingest` reads a source."""

    on_bad_image: Literal["error", "skip"] = "error"
    """error: stop at bad inputs and list them; skip: leave them out and list them in <data>/rejected.csv"""
    on_duplicate: validation.OnDuplicate = "error"
    """the same picture (also re-saved, resized or rotated) in both splits or under two cultivars: error stops,
    keep-train leaves the test copy out, warn keeps both"""
    regions: tuple[RegionName, ...] = added(PAPER_REGIONS)
    """names of the regions of a leaf, as the classes of the boxes are called: 1 to 8"""
    box_rules: BoxRules = "auto"
    """what the box classes mean: named (they are called as the regions); for vein and contour without names also
    two_classes (soy) and one_class (cotton)"""
    box_orientation: BoxOrientation = "auto"
    """how photographs with an EXIF orientation were displayed when their boxes were drawn: upright, stored (as stored,
    by old tools), or auto (by the size in the box file)"""
    label_base: Literal["auto", 0, 1] = "auto"
    """number of the first label in the source"""
    group_pattern: str | None = None
    """regular expression whose first group is the plant in a photograph's path; a plant is never in both splits"""
    shard_mb: int = Field(128, ge=1, le=1024)
    """largest size of a shard, in MiB"""

    _right_regions = field_validator("regions")(check_region_names)


def ingest(
    source: str,
    data: str,
    name: str | None = None,
    reader: ReaderName = "auto",
    boxes: str | None = None,
    groups: str | None = None,
    split: float | None = None,
    seed: int = 0,
    settings: IngestSettings | None = None,
    ray: RaySettings | None = None,
) -> Dataset:
    """Ingests the photographs of `source` (a folder, bucket or table) into a data set at `data`.

    name: of the data set; default: the last component of `data`.  boxes: URI of the boxes; default: labels/ of a folder
    in the released layout.  groups: URI of a table that names the plant of each photograph.  split: share of each
    cultivar that becomes test, for a source without a split.
    A data set that `data` holds already is replaced last, when everything is written. UserError on bad inputs.
    """
    settings = settings or IngestSettings()
    check_rules(settings.box_rules, settings.regions)
    store = open_store(data)
    name = _dataset_name(name, store.uri)
    listing = list_source(source, reader, settings.label_base, store, settings.regions)
    if groups:
        read_groups(groups, listing)
    assign_all_splits(listing, source, split, seed, settings)
    strict = settings.on_bad_image == "error"
    if strict or not listing.photos:
        validation.raise_if_rejected(listing.rejected, source)
    annotated = read_annotations(boxes or listing.boxes, listing, settings.box_rules, settings.regions)
    if strict:
        validation.raise_if_rejected(annotated.rejected, source)
    validation.check_splits(listing.photos.split_counts(), source, split)
    check_names(listing, source)
    images, regions = ShardWriter(store, IMAGES, "", "images"), ShardWriter(store, REGIONS_FOLDER, "", "regions")
    with tempfile.TemporaryDirectory(prefix="ufgvc-ingest-", ignore_cleanup_errors=True) as temporary:
        try:
            content = _write_shards(listing, annotated, store, images, regions, source, settings, ray, Path(temporary))
            validation.check_splits(split_counts(content.index), source, split)
        except BaseException:
            _delete_partial_output(store, images, regions)
            raise
        validation.warn_missing_cultivars(listing, content.index)
        # dataset.json makes the new images current: until it is written, the previous data set is complete.
        regions = ShardWriter(store, REGIONS_FOLDER, fingerprint_of(content.index), "regions")
        images.write_manifest(content.images)
        regions.write_manifest(content.regions, rules=annotated.rules, annotated=len(annotated.by_path))
        dataset = write_dataset(store, name, listing.classes, content.index, content.images, source, settings.regions)
    images.delete_unreferenced(content.images)
    regions.delete_unreferenced(content.regions)
    _write_rejected(store, [*listing.rejected, *annotated.rejected, *content.rejected], listing.left_out)
    return dataset


@dataclass(frozen=True)
class Content:
    """The shards that were written, the index of their images (on the local disk), and what was left out."""

    images: list[Shard]
    regions: list[Shard]
    index: pa.Table
    rejected: list[Rejected]


def _write_shards(
    listing: Listing,
    annotated: AnnotatedPhotos,
    store: Store,
    images: ShardWriter,
    regions: ShardWriter,
    source: str,
    settings: IngestSettings,
    ray: RaySettings | None,
    temporary: Path,
) -> Content:
    """Packs all photos without those that are bad or duplicates. UserError for these if the settings say so.

    temporary: a folder for what the driver would else hold of every photo.
    """
    packer = Packer(listing.store, annotated.folder, annotated.rules, settings.box_orientation, images, regions)
    plans = plan_shards(listing.photos, annotated.by_path, settings.shard_mb << 20)
    spool = Spool(temporary)
    for one in _pack(packer, plans, len(listing.photos), ray):
        spool.add(one)
    index, rejected = spool.index(), spool.rejected
    groups = find_duplicates(spool.signatures(), Texts(index["sha256"]))
    duplicates = validation.find_duplicate_leaks(index, groups, listing.photos, settings.on_duplicate)
    if settings.on_bad_image == "error":
        refused = duplicates.values() if settings.on_duplicate == "error" else ()
        hint = validation.DUPLICATE_HINT if refused else validation.SKIP_HINT
        validation.raise_if_rejected([*rejected, *refused], source, hint)
    image_shards, region_shards = spool.images, spool.regions
    if duplicates:
        image_shards, region_shards = _drop_images(set(duplicates), store, image_shards, region_shards, images, regions)
        index = spool.index_without(duplicates)
    if settings.box_orientation == "auto":
        annotated.warn_about_rotation(index, listing.photos)
    return Content(image_shards, region_shards, index, [*rejected, *duplicates.values()])


def _dataset_name(name: str | None, uri: str) -> str:
    """A name that is valid in paths and in the names of registered models."""
    if name is None:
        return re.sub(r"[^A-Za-z0-9._-]+", "-", uri.rstrip("/").rpartition("/")[2]).strip(".-")[:100] or "leaves"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
        fix = "use at most 100 letters, digits, dots, dashes and underscores"
        raise UserError(f"{name!r} cannot name a data set", where="--name", fix=fix)
    return name


def assign_all_splits(listing: Listing, source: str, split: float | None, seed: int, settings: IngestSettings) -> None:
    """Gives every photo a split, and rejects those that are in both."""
    set_groups(listing.photos, settings.group_pattern)
    if listing.photos.split_counts()[""]:
        if split is None:
            raise UserError(
                "does not say which photographs are for training and which for the test",
                where=source,
                fix="give --split, the share of each cultivar that becomes test (for example 0.5), "
                "or sort them into train/ and test/",
            )
        if not 0 < split < 1:
            raise UserError(f"{split} is not a share between 0 and 1", where="--split", fix="for example 0.5")
        assign_splits(listing.photos, split, seed)
    # Of a photo or plant in both splits the training copy is rejected: the test split stays as the source has it.
    is_test = listing.photos.splits == SPLITS.index("test")
    tests_first = listing.photos.take(np.argsort(~is_test, kind="stable"))
    photos, repeated = validation.reject_repeated_paths(tests_first)
    listing.photos, leaks = validation.reject_group_leaks(photos)
    listing.rejected += repeated + leaks


def _pack(
    packer: Packer, plans: Iterable[ShardPlan], photographs: int, settings: RaySettings | None
) -> Iterator[PackedShard]:
    """Packs the shards in Ray tasks, one each; those of few photographs in threads of this process."""
    if runs_in_process(settings, photographs):
        yield from map_in_threads(packer, plans, cpu_count())
        return
    with ray_session(settings):
        yield from run_tasks(map_in_tasks(packer, plans))


def _delete_partial_output(store: Store, images: ShardWriter, regions: ShardWriter) -> None:
    """Deletes the shards that a failed ingest has written, and keeps the previous data set."""
    try:
        before = open_dataset(store.uri) if store.exists(DATASET_FILE) else None
        images.delete_unreferenced(before.shards if before else [])
        regions.delete_unreferenced(read_manifest(before, REGIONS_FOLDER).shards if before else [])
    except UserError as error:  # the original failure is reported; the next ingest deletes these shards too
        log.warning("could not delete incomplete output: %s", error.what)


def _drop_images(
    dropped: set[str],
    store: Store,
    image_shards: list[Shard],
    region_shards: list[Shard],
    images: ShardWriter,
    regions: ShardWriter,
) -> tuple[list[Shard], list[Shard]]:
    """The shards without some images; only shards that hold one of them are written again."""
    written = Dataset(store, "", (), "", tuple(image_shards), {})
    remaining: tuple[list[Shard], list[Shard]] = ([], [])
    for image_shard, region_shard in zip(image_shards, region_shards, strict=True):
        table = read_images(written, image_shard)
        keep = pa.array([image_id not in dropped for image_id in table["image_id"].to_pylist()])
        if all(keep.to_pylist()):
            remaining[0].append(image_shard)
            remaining[1].append(region_shard)
        elif any(keep.to_pylist()):
            boxes = read_parquet_file(store.child(REGIONS_FOLDER), region_shard.file)
            remaining[0].append(images.write(image_shard.name, image_shard.split, table.filter(keep)))
            remaining[1].append(regions.write(region_shard.name, region_shard.split, boxes.filter(keep)))
    return remaining


def _write_rejected(store: Store, rejected: list[Rejected], left_out: list[Rejected]) -> None:
    """Writes <data>/rejected.csv (path, reason), or deletes an old one if nothing was left out."""
    lines = sorted({(bad.path, bad.reason) for bad in [*rejected, *left_out]})
    if not lines:
        if store.exists(REJECTED_FILE):
            store.delete(REJECTED_FILE)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("path", "reason"), *lines])
    store.write_text(REJECTED_FILE, text.getvalue())
    refused = len({(bad.path, bad.reason) for bad in rejected})
    counts = [plural(refused, "photograph or box file", "photographs or box files")] if refused else []
    others = len(lines) - refused
    counts += [plural(others, "file that is not used", "files that are not used")] if others else []
    harmless = all(reason == NOT_USED for _, reason in lines)
    level = logging.INFO if harmless else logging.WARNING
    log.log(level, "left out: %s; see %s/%s", " and ".join(counts), store.uri, REJECTED_FILE)

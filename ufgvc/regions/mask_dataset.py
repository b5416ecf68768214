"""Makes the masks of a data set: the command `mask`. Ray Data runs the detector, one task a shard."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ufgvc.core.config import short_key
from ufgvc.core.errors import UserError
from ufgvc.core.process import cpu_count
from ufgvc.core.region_names import join_names
from ufgvc.core.storage import open_store
from ufgvc.data.dataset import Dataset, Manifest, Shard, ShardWriter, open_dataset, read_manifest
from ufgvc.regions.annotated import ANNOTATED
from ufgvc.regions.exact_masks import EXACT, exact_masks
from ufgvc.regions.mask_results import MaskCompleteness, MaskResult, find_existing, run_on_shards
from ufgvc.regions.mask_worker import DETECTED, ShardMasker
from ufgvc.regions.settings import METRICS, MaskSettings, check_kind
from ufgvc.runtime.resources import actor_pool, choose_device
from ufgvc.runtime.session import ray_session, runs_in_process
from ufgvc.runtime.tasks import one_task_each, run_tasks
from ufgvc.tracking.context import Context

log = logging.getLogger(__name__)


def mask(
    data: str,
    settings: MaskSettings | None = None,
    detector: str | None = None,
    source: str | None = None,
    context: Context = Context(),
) -> MaskResult:
    """Writes <data>/masks/<kind>, and <data>/regions/detected if boxes are detected, for every image of the data set.

    detector: folder or URI of a detector (DetectResult.model); default: the newest of this data set in `context.runs`.
    source: folder or URI with the masks of kind exact; not used for other kinds.
    Nothing is done if the masks exist, made from the same images, boxes and settings, unless `context.fresh`; existing
    boxes of the same detector are used again. UserError if every region is found on too few training images
    (`min_found`), or if no image can be read.
    """
    settings = settings or MaskSettings()
    started = time.monotonic()
    dataset = open_dataset(data)
    check_kind(settings.mask_kind, dataset.regions)
    if settings.mask_kind == EXACT:
        return exact_masks(dataset, source, context)
    folder = f"masks/{settings.mask_kind}"
    if detector is None and settings.box_source != "annotated":
        detector = newest_detector(dataset, context.runs)
    boxes = _describe_boxes(dataset, detector, settings)
    key = short_key({"kind": settings.mask_kind, "origin": boxes.origin})
    existing = None if context.fresh else find_existing(dataset, folder, key)
    if existing and _can_reuse(dataset, existing, settings):
        log.info("mask: %s exists, made from the same images, boxes and settings", folder)
        return MaskResult.from_manifest(dataset, settings.mask_kind, existing, started, found=True)
    reuse_boxes = (
        not context.fresh
        and settings.box_source == "detected"
        and find_existing(dataset, DETECTED, boxes.detected_key) is not None
    )
    writers = {
        "detected": ShardWriter(dataset.store, DETECTED, dataset.fingerprint, "regions"),
        "masks": ShardWriter(dataset.store, folder, dataset.fingerprint, "masks", dataset.regions),
    }
    arguments = {
        "dataset": dataset,
        "writers": writers,
        "detector": None if reuse_boxes or settings.box_source == "annotated" else open_store(str(detector)),
        "source": "existing" if reuse_boxes else settings.box_source,
        "kind": settings.mask_kind,
        "confidence": boxes.confidence,
        "batch_size": settings.batch_size,
        "threads": settings.cpus_per_actor,
    }
    rows = _run(dataset, arguments, settings, context)
    manifest = _commit(dataset, rows, writers, settings, boxes, key)
    return MaskResult.from_manifest(dataset, settings.mask_kind, manifest, started)


@dataclass(frozen=True)
class BoxOrigin:
    """Where the boxes of the masks come from.

    confidence: lowest score.  regions: of the detector; none without one.  origin: what determines the boxes.
    """

    confidence: float
    regions: tuple[str, ...]
    origin: dict[str, Any]

    @property
    def detected_key(self) -> str:
        """The key of regions/detected."""
        return short_key({"detector": self.origin.get("detector"), "confidence": self.confidence})


def _commit(
    dataset: Dataset,
    rows: list[dict[str, Any]],
    writers: dict[str, ShardWriter],
    settings: MaskSettings,
    boxes: BoxOrigin,
    key: str,
) -> Manifest:
    """Writes the manifests of detected boxes (if there are new ones) and masks.  rows: of `ShardMasker`.

    UserError if no image could be read, or if the masks cover too few training images; the boxes are kept then.
    """
    failed = [pair for row in rows for pair in json.loads(row["failed"])]
    if len(failed) == sum(shard.rows for shard in dataset.shards):
        raise UserError(
            f"no photograph could be read; the first: {failed[0][0]}: {failed[0][1]}", fix="run `ufgvc ingest` again"
        )
    coverage = MaskCompleteness.from_rows(rows, boxes.regions, settings.min_found)
    extra: dict[str, Any] = {
        "complete": coverage.complete,
        "failed": failed,
        "confidence": boxes.confidence,
        "origin": boxes.origin,
    }
    detected = [Shard(**json.loads(row["detected"])) for row in rows if row["detected"]]
    if detected:
        writers["detected"].commit(detected, key=boxes.detected_key, **extra)
    _check_coverage(dataset, coverage, settings)
    extra |= {"train_found": [coverage.train, coverage.num_train], "min_found": settings.min_found}
    masks = [Shard(**json.loads(row["masks"])) for row in rows]
    return writers["masks"].commit(masks, key=key, kind=settings.mask_kind, **extra)


def _can_reuse(dataset: Dataset, manifest: Manifest, settings: MaskSettings) -> bool:
    """Whether existing masks can be used: not if they cover less than their own `min_found` required.

    UserError if they cover less than `settings.min_found`.
    """
    coverage = MaskCompleteness.from_manifest(manifest)
    _check_coverage(dataset, coverage, settings)
    return coverage.share >= coverage.min_found


def _check_coverage(dataset: Dataset, coverage: MaskCompleteness, settings: MaskSettings) -> None:
    remedy = (
        "train a better detector (`ufgvc detect` with more annotated leaves, `--num-annotated`, or more `--epochs`)"
    )
    if settings.box_source == "annotated":
        remedy = "annotate more leaves, or let a detector find the boxes (`--box-source annotated_else_detected`)"
    fix = f"{remedy}, or accept the masks with `--min-found 0`"
    coverage.check(settings.min_found, f"{dataset.store.uri}, masks of kind {settings.mask_kind}", fix)


def newest_detector(dataset: Dataset, runs: str) -> str:
    """URI of the newest detector of this data set. UserError with the command to run if there is none."""
    store = open_store(runs).child(dataset.name, "regions")
    found = [name for name in store.list() if name.count("/") == 1 and name.endswith(f"/{METRICS}")]
    if not found:
        fix = f"run `ufgvc detect --data {dataset.store.uri} --runs {runs}` first"
        raise UserError("there is no detector for this data set", where=store.uri, fix=fix)
    newest = max(found, key=lambda name: float(store.read_json(name).get("finished", 0)))
    return f"{store.uri}/{newest.rpartition('/')[0]}/model"


def _describe_boxes(dataset: Dataset, detector: str | None, settings: MaskSettings) -> BoxOrigin:
    """UserError without annotated boxes, or if a detector is needed and there is none, or one of other regions."""
    regions: tuple[str, ...] = ()
    origin: dict[str, Any] = {"boxes": settings.box_source}
    confidence = settings.confidence or 0.25
    if settings.box_source != "detected":
        origin["annotated"] = read_manifest(dataset, ANNOTATED).fingerprint
    if settings.box_source != "annotated":
        try:
            store = open_store(str(detector))
            description = store.read_json("model.json")
            origin["detector"] = hashlib.sha256(store.read_bytes("weights.safetensors")).hexdigest()
        except FileNotFoundError:
            fix = f"run `ufgvc detect --data {dataset.store.uri}` first"
            raise UserError("holds no detector", where=detector, fix=fix) from None
        regions = tuple(description["regions"])
        check_detector(regions, dataset, str(detector))
        confidence = settings.confidence or description["info"].get("confidence", confidence)
        origin |= {"confidence": confidence, "max_boxes": description["max_boxes"]}
    return BoxOrigin(confidence, regions, origin)


def check_detector(regions: Sequence[str], dataset: Dataset, where: str) -> None:
    """UserError for a detector of regions that the data set does not have.  regions: of the detector."""
    if not set(regions) <= set(dataset.regions):
        what = f"finds {join_names(regions)}, the regions of the data set are {join_names(dataset.regions)}"
        raise UserError(what, where=where, fix=f"run `ufgvc detect --data {dataset.store.uri}`")


def _run(dataset: Dataset, arguments: dict[str, Any], settings: MaskSettings, context: Context) -> list[dict[str, Any]]:
    """The results of `ShardMasker(**arguments)` for all shards, by actors; for few photographs by this process."""
    uses_detector = arguments["detector"] is not None
    if settings.has_default_size and runs_in_process(context.ray, sum(dataset.counts.values())):
        device = choose_device(settings.device) if uses_detector else "cpu"
        masker = ShardMasker(**arguments | {"device": device, "threads": cpu_count(), "network_threads": None})
        return run_on_shards(dataset, lambda shards: map(masker, shards))
    with ray_session(context.ray, settings.gpus_to_wait_for if uses_detector else 0):
        pool = actor_pool(settings, len(dataset.shards), can_use_gpu=uses_detector)
        log.info("mask: %d shards, up to %d actors on %s", len(dataset.shards), pool.max_actors, pool.device)
        arguments = arguments | {"device": pool.device}
        options = {"fn_constructor_kwargs": arguments, **pool.options}
        return run_on_shards(
            dataset, lambda shards: run_tasks(one_task_each(shards).map(ShardMasker, **options).iter_rows())
        )

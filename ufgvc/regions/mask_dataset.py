"""The step `mask`: every leaf through the detector, and what its boxes leave of it as masks. Ray Data, one shard at a time."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from typing import Any

from ufgvc.core.config import short_key
from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store
from ufgvc.data.dataset import Dataset, Manifest, Shard, ShardWriter, open_dataset, read_manifest
from ufgvc.regions.annotated import ANNOTATED, METRICS
from ufgvc.regions.exact_masks import EXACT, exact_masks
from ufgvc.regions.mask_results import Coverage, MaskResult, existing, finish, result_of, shard_tasks
from ufgvc.regions.mask_worker import DETECTED, ShardMasker
from ufgvc.regions.settings import MaskSettings
from ufgvc.runtime.resources import actor_pool
from ufgvc.runtime.session import ray_session
from ufgvc.tracking.context import Context

log = logging.getLogger(__name__)


def mask(
    data: str,
    settings: MaskSettings | None = None,
    detector: str | None = None,
    source: str | None = None,
    context: Context = Context(),
) -> MaskResult:
    """Writes <data>/masks/<kind> (and <data>/regions/detected, if the detector's boxes are used) for every photograph.

    detector: folder or URI that `detect` left (DetectResult.model); default: the newest of this data set below `context.runs`.
    source: folder or URI that holds the masks of kind exact; no other kind looks at it.
    Nothing is done if the masks are there from the same images, boxes and settings, unless `context.fresh`; boxes that the same detector found
    before are not searched for again. UserError where too few training leaves show every region (`min_found`).
    """
    settings = settings or MaskSettings()
    started = time.monotonic()
    dataset = open_dataset(data)
    if settings.kind == EXACT:
        return exact_masks(dataset, source, context)
    folder = f"masks/{settings.kind}"
    if detector is None and settings.boxes != "annotated":
        detector = newest_detector(dataset, context.runs)
    confidence, regions, origin = _origin(dataset, detector, settings)
    key = short_key({"kind": settings.kind, "origin": origin})
    if not context.fresh and (there := existing(dataset, folder, key)) and _serves(dataset, there, settings):
        log.info("mask: %s is there from the same images, boxes and settings", folder)
        return result_of(dataset, settings.kind, there, started, found=True)
    detected_key = short_key({"detector": origin.get("detector"), "confidence": confidence})
    known = existing(dataset, DETECTED, detected_key) if not context.fresh and settings.boxes == "detected" else None
    writers = {
        "detected": ShardWriter(dataset.store, DETECTED, dataset.fingerprint, "regions"),
        "masks": ShardWriter(dataset.store, folder, dataset.fingerprint, "masks"),
    }
    masker = {
        "dataset": dataset,
        "writers": writers,
        "detector": None if known or settings.boxes == "annotated" else open_store(str(detector)),
        "source": "known" if known else settings.boxes,
        "kind": settings.kind,
        "confidence": confidence,
        "batch": settings.batch,
        "threads": settings.cpus_per_actor,
    }
    rows = _run(dataset, masker, settings, context)
    failed = [pair for row in rows for pair in json.loads(row["failed"])]
    if len(failed) == sum(shard.rows for shard in dataset.shards):
        raise UserError(
            f"not one photograph gave a mask; the first: {failed[0][0]}: {failed[0][1]}", fix="run `ufgvc ingest` again"
        )
    coverage = Coverage.counted(rows, regions, settings.min_found)
    extra: dict[str, Any] = {
        "complete": coverage.complete,
        "failed": failed,
        "confidence": confidence,
        "origin": origin,
    }
    if masker["detector"] is not None:
        writers["detected"].commit([Shard(**json.loads(row["detected"])) for row in rows], key=detected_key, **extra)
    _check_coverage(dataset, coverage, settings)
    extra |= {"train_found": [coverage.train, coverage.train_of], "min_found": settings.min_found}
    manifest = writers["masks"].commit(
        [Shard(**json.loads(row["masks"])) for row in rows], key=key, kind=settings.kind, **extra
    )
    return result_of(dataset, settings.kind, manifest, started)


def _serves(dataset: Dataset, manifest: Manifest, settings: MaskSettings) -> bool:
    """Whether masks that are there can stay; not where they show less than what was asked of them and is asked no more."""
    coverage = Coverage.of(manifest)
    _check_coverage(dataset, coverage, settings)
    return coverage.share >= coverage.min_found


def _check_coverage(dataset: Dataset, coverage: Coverage, settings: MaskSettings) -> None:
    better = "train a better detector (`ufgvc detect` with more `--annotated` leaves, drawn in an annotation tool, or more `--epochs`)"
    if settings.boxes == "annotated":
        better = "draw boxes on more leaves, or let a detector find them (`--boxes annotated_else_detected`)"
    fix = f"{better}, or go on all the same with `--min-found 0`"
    coverage.check(settings.min_found, f"{dataset.store.uri}, masks of kind {settings.kind}", fix)


def newest_detector(dataset: Dataset, runs: str) -> str:
    """URI of the detector that `detect` finished last for this data set. UserError with the command to run if there is none."""
    store = open_store(runs).child(dataset.name, "regions")
    found = [name for name in store.list() if name.count("/") == 1 and name.endswith(f"/{METRICS}")]
    if not found:
        fix = f"run `ufgvc detect --data {dataset.store.uri} --runs {runs}` first"
        raise UserError("there is no detector for this data set", where=store.uri, fix=fix)
    newest = max(found, key=lambda name: float(store.read_json(name).get("finished", 0)))
    return f"{store.uri}/{newest.rpartition('/')[0]}/model"


def _origin(
    dataset: Dataset, detector: str | None, settings: MaskSettings
) -> tuple[float, tuple[str, ...], dict[str, Any]]:
    """The least score, the regions that the detector knows (none without one), and everything that decides which boxes there are."""
    regions: tuple[str, ...] = ()
    origin: dict[str, Any] = {"boxes": settings.boxes}
    confidence = settings.confidence or 0.25
    if settings.boxes != "detected":
        origin["annotated"] = read_manifest(dataset, ANNOTATED).fingerprint
    if settings.boxes != "annotated":
        remedy = f"run `ufgvc detect --data {dataset.store.uri}` first"
        try:
            store = open_store(str(detector))
            about = store.read_json("model.json")
            origin["detector"] = hashlib.sha256(store.read_bytes("weights.safetensors")).hexdigest()
        except FileNotFoundError:
            raise UserError("holds no detector", where=detector, fix=remedy) from None
        regions = tuple(about["regions"])
        confidence = settings.confidence or about["info"].get("confidence", confidence)
        origin |= {"confidence": confidence, "most": about["most"]}
    return confidence, regions, origin


def _run(dataset: Dataset, masker: dict[str, Any], settings: MaskSettings, context: Context) -> list[dict[str, Any]]:
    uses_detector = masker["detector"] is not None
    with ray_session(context.ray, settings.gpus_to_wait_for if uses_detector else 0):
        pool = actor_pool(settings, len(dataset.shards), can_use_gpu=uses_detector)
        arguments = masker | {"device": pool.device}
        tasks = shard_tasks(dataset).map(ShardMasker, fn_constructor_kwargs=arguments, **pool.options)
        log.info("mask: %d shards, up to %d actors on %s", len(dataset.shards), pool.max_actors, pool.device)
        return finish(tasks, len(dataset.shards))

"""The step `mask`: every leaf through the detector, and what its boxes leave of it as masks. Ray Data, one part at a time."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import asdict, dataclass
from typing import Any

from ufgvc.core.config import short_key
from ufgvc.core.errors import UserError, user_error_in
from ufgvc.core.storage import open_store
from ufgvc.data.cluster import RaySettings, quiet_data, ray_session
from ufgvc.data.shards import Dataset, FolderWriter, Manifest, Part, open_dataset, read_manifest
from ufgvc.regions.leaves import ANNOTATED, METRICS
from ufgvc.regions.settings import MaskSettings
from ufgvc.regions.worker import DETECTED, PartMasker

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MaskResult:
    """folder: masks' URI. fingerprint: of the masks. complete: leaves with a mask of every region, of n. failed: (image_id, reason)."""

    folder: str
    kind: str
    fingerprint: str
    complete: int
    n: int
    failed: tuple[tuple[str, str], ...]
    seconds: float
    found: bool = False

    def summary(self) -> str:
        text = f"masks ({self.kind}) of {self.n} leaves, every region on {self.complete} ({self.complete / max(1, self.n):.1%})"
        return f"{text}; {len(self.failed)} could not be read" if self.failed else text


def mask(
    data_uri: str,
    settings: MaskSettings | None = None,
    runs_uri: str = "runs",
    detector: str | None = None,
    fresh: bool = False,
    ray_settings: RaySettings | None = None,
) -> MaskResult:
    """Writes <data>/masks/<kind> (and <data>/regions/detected, if the detector's boxes are used) for every photograph.

    detector: folder or URI that `detect` left (DetectResult.model); default: the newest of this data set below `runs_uri`.
    Nothing is done if the masks are there from the same images, boxes and settings, unless `fresh`; boxes that the same detector found
    before are not searched for again.
    """
    settings = settings or MaskSettings()
    started = time.monotonic()
    dataset = open_dataset(data_uri)
    folder = f"masks/{settings.kind}"
    if detector is None and settings.boxes != "annotated":
        detector = newest_detector(dataset, runs_uri)
    confidence, origin = _origin(dataset, detector, settings)
    key = short_key({"kind": settings.kind, "origin": origin})
    if not fresh and (there := _existing(dataset, folder, key)):
        log.info("mask: %s is there from the same images, boxes and settings", folder)
        return _result(dataset, folder, settings.kind, there, started, found=True)
    detected_key = short_key({"detector": origin.get("detector"), "confidence": confidence})
    known = _existing(dataset, DETECTED, detected_key) if not fresh and settings.boxes == "detected" else None
    writers = {
        "detected": FolderWriter(dataset.store, DETECTED, dataset.fingerprint, "regions"),
        "masks": FolderWriter(dataset.store, folder, dataset.fingerprint, "masks"),
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
    rows = _run(dataset, masker, settings, ray_settings)
    failed = [pair for row in rows for pair in json.loads(row["failed"])]
    if len(failed) == sum(part.rows for part in dataset.parts):
        raise UserError(f"not one photograph gave a mask; the first: {failed[0][0]}: {failed[0][1]}", fix="run `ufgvc ingest` again")
    extra = {"complete": sum(row["complete"] for row in rows), "failed": failed, "confidence": confidence, "origin": origin}
    if masker["detector"] is not None:
        writers["detected"].commit([Part(**json.loads(row["detected"])) for row in rows], key=detected_key, **extra)
    manifest = writers["masks"].commit([Part(**json.loads(row["masks"])) for row in rows], key=key, kind=settings.kind, **extra)
    return _result(dataset, folder, settings.kind, manifest, started)


def newest_detector(dataset: Dataset, runs_uri: str) -> str:
    """URI of the detector that `detect` finished last for this data set. UserError with the command to run if there is none."""
    store = open_store(runs_uri).child(dataset.name, "regions")
    found = [name for name in store.list() if name.count("/") == 1 and name.endswith(f"/{METRICS}")]
    if not found:
        fix = f"run `ufgvc detect --data {dataset.store.uri} --runs {runs_uri}` first"
        raise UserError("there is no detector for this data set", where=store.uri, fix=fix)
    newest = max(found, key=lambda name: float(store.read_json(name).get("finished", 0)))
    return f"{store.uri}/{newest.rpartition('/')[0]}/model"


def _origin(dataset: Dataset, detector: str | None, settings: MaskSettings) -> tuple[float, dict[str, Any]]:
    """The least score, and everything that decides which boxes there are."""
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
        confidence = settings.confidence or about["info"].get("confidence", confidence)
        origin |= {"confidence": confidence, "most": about["most"]}
    return confidence, origin


def _existing(dataset: Dataset, folder: str, key: str) -> Manifest | None:
    """The folder's manifest if it was made from these images with this key."""
    try:
        manifest = read_manifest(dataset, folder)
    except UserError:  # missing, or made from other images: both are made anew
        return None
    same_parts = [part.name for part in manifest.parts] == [part.name for part in dataset.parts]
    return manifest if manifest.extra.get("key") == key and same_parts else None


def _run(dataset: Dataset, masker: dict[str, Any], settings: MaskSettings, ray_settings: RaySettings | None) -> list[dict[str, Any]]:
    with ray_session(ray_settings):
        import ray
        from ray.exceptions import RayError

        quiet_data()
        resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = int(resources.get("GPU", 0)) if settings.gpu == "auto" and masker["detector"] is not None else 0
        room = gpus or int(resources.get("CPU", 1)) // settings.cpus_per_actor
        if room < 1:
            raise UserError(
                f"the cluster has {resources.get('CPU', 0):g} CPUs, each detector is to have {settings.cpus_per_actor}",
                where="cpus_per_actor",
                fix="lower it or add CPUs",
            )
        most = min(settings.max_actors or room, room, len(dataset.parts))
        pool = ray.data.ActorPoolStrategy(min_size=min(settings.min_actors, most), max_size=most)
        parts = [{"part": json.dumps(asdict(part))} for part in dataset.parts]
        tasks = ray.data.from_items(parts, override_num_blocks=len(parts)).map(
            PartMasker,  # type: ignore[arg-type]  # Ray builds it in each actor
            fn_constructor_kwargs=masker,
            compute=pool,
            num_cpus=settings.cpus_per_actor,
            num_gpus=1 if gpus else 0,
        )
        log.info("mask: %d parts, up to %d detectors on %s", len(parts), most, "GPUs" if gpus else "CPUs")
        rows: list[dict[str, Any]] = []
        try:
            for row in tasks.iter_rows():
                rows.append(row)
                log.info("mask: %d of %d parts", len(rows), len(parts))
        except RayError as error:
            raise user_error_in(error) or error from None
    return rows


def _result(dataset: Dataset, folder: str, kind: str, manifest: Manifest, started: float, found: bool = False) -> MaskResult:
    return MaskResult(
        f"{dataset.store.uri}/{folder}",
        kind,
        manifest.fingerprint,
        manifest.extra["complete"],
        sum(part.rows for part in manifest.parts),
        tuple((image_id, reason) for image_id, reason in manifest.extra["failed"]),
        round(time.monotonic() - started, 1),
        found,
    )

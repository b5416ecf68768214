"""What there is of a data set: boxes, detector, masks, runs and registered versions, and what of it is stale.

Read from storage, and from MLflow's registry if it answers; nothing is written and no model is loaded.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import yaml

from ufgvc.core.errors import UserError
from ufgvc.core.region_names import PAPER_REGIONS
from ufgvc.core.storage import Store, open_store
from ufgvc.core.types import MaskKind
from ufgvc.data.dataset import MANIFEST_FILE, Dataset, open_dataset, read_index
from ufgvc.data.splits import count_groups
from ufgvc.experiments.status_runs import RunStatus, Trials, read_runs, read_trials
from ufgvc.regions.settings import METRICS
from ufgvc.tracking.context import Context
from ufgvc.tracking.registry import model_name
from ufgvc.tracking.settings import OFF
from ufgvc.tracking.versions import Version, list_registered

ANNOTATED = "regions/annotated"
MASK_KINDS: tuple[str, ...] = typing.get_args(MaskKind)
OTHER_PHOTOGRAPHS = "made from other photographs than the data set has now"


@dataclass(frozen=True)
class BoxStatus:
    """Boxes that a person drew.  leaves: photographs with boxes.  stale: why they do not fit, "" if they do."""

    leaves: int
    fingerprint: str
    stale: str = ""


@dataclass(frozen=True)
class DetectorStatus:
    """The newest region detector.  run: URI of its folder.  map50: mAP@0.5 in [0, 1] on `evaluated` leaves."""

    run: str
    map50: float
    evaluated: int
    evaluated_on: str
    stale: str = ""


@dataclass(frozen=True)
class MaskStatus:
    """Masks of one kind.  complete: leaves with a mask of every region, of n.  boxes: where their boxes come from."""

    kind: str
    complete: int
    n: int
    fingerprint: str
    boxes: str = ""
    stale: str = ""


@dataclass(frozen=True)
class VersionStatus:
    """A registered version.  accuracy: "k/n" on the test leaves as its tag says it, "" if it has none.

    decided: the number of the champion that it was compared with on the photographs of now, None for none.
    """

    number: str
    run_id: str | None
    accuracy: str
    decided: str | None
    stale: str = ""


@dataclass(frozen=True)
class RegistryStatus:
    """Registered versions, newest first.  model: name of the registered model.  problem: why it could not be read."""

    model: str
    versions: tuple[VersionStatus, ...] = ()
    champion: str | None = None
    challenger: str | None = None
    problem: str = ""


@dataclass(frozen=True)
class Status:
    """All that there is.  cultivars: their number.  leaves: photographs by split.  regions: that boxes may have.

    can_hold_out: whether every cultivar has training leaves of two plants (two leaves, where plants are not known), so
    that a model can be calibrated on leaves that it was not trained on; read only if a model of now has no threshold.
    stale: a sentence for each thing that does not belong to the data set as it is now.
    """

    data: str
    name: str
    fingerprint: str
    cultivars: int
    leaves: Mapping[str, int]
    regions: tuple[str, ...]
    runs_folder: str
    boxes: BoxStatus | None
    detector: DetectorStatus | None
    masks: tuple[MaskStatus, ...]
    runs: tuple[RunStatus, ...]
    trials: Trials
    registry: RegistryStatus
    can_hold_out: bool = True
    stale: tuple[str, ...] = ()


def read_status(data: str, context: Context = Context()) -> Status:
    """The state of a data set and of what was made from it in `context.runs`. UserError if there is no data set."""
    dataset = open_dataset(data)
    runs = open_store(context.runs).child(dataset.name)
    names = runs.list()
    boxes = _read_boxes(dataset)
    masks = tuple(_read_masks(dataset, boxes))
    status = Status(
        data=dataset.store.uri,
        name=dataset.name,
        fingerprint=dataset.fingerprint,
        cultivars=len(dataset.classes),
        leaves=dataset.counts,
        regions=dataset.regions,
        runs_folder=context.runs,
        boxes=boxes,
        detector=_read_detector(dataset, boxes, runs, names),
        masks=masks,
        runs=read_runs(runs, names, dataset.fingerprint, {each.kind: each.fingerprint for each in masks}),
        trials=read_trials(names),
        registry=_read_registry(dataset, context),
    )
    without_threshold = any(run.finished and not run.stale and not run.has_threshold for run in status.runs)
    can_hold_out = _can_hold_out(dataset) if without_threshold else True
    return replace(status, can_hold_out=can_hold_out, stale=_list_stale(status))


def _can_hold_out(dataset: Dataset) -> bool:
    index = read_index(dataset, "train")
    labels = index["label"].to_numpy().astype(np.int64)
    units = count_groups(labels, index["group"].to_pylist(), len(dataset.classes))
    return bool((units[np.unique(labels)] > 1).all())


def _read_manifest(dataset: Dataset, folder: str) -> dict[str, Any] | None:
    """The content of a manifest, also of one that was made from other images; None if there is none."""
    try:
        return dict(dataset.store.child(folder).read_json(MANIFEST_FILE))
    except FileNotFoundError:
        return None


def _read_boxes(dataset: Dataset) -> BoxStatus | None:
    found = _read_manifest(dataset, ANNOTATED)
    if found is None or not found["extra"].get("annotated", 0):
        return None
    stale = "" if found["source_fingerprint"] == dataset.fingerprint else OTHER_PHOTOGRAPHS
    return BoxStatus(int(found["extra"]["annotated"]), found["fingerprint"], stale)


def _read_masks(dataset: Dataset, boxes: BoxStatus | None) -> Iterator[MaskStatus]:
    for kind in MASK_KINDS:
        found = _read_manifest(dataset, f"masks/{kind}")
        if found is None:
            continue
        extra = found["extra"]
        origin = extra.get("origin") or {}
        stale = "" if found["source_fingerprint"] == dataset.fingerprint else OTHER_PHOTOGRAPHS
        if not stale and "annotated" in origin and (boxes is None or origin["annotated"] != boxes.fingerprint):
            stale = "made from other boxes than the data set has now"
        if not stale and tuple(extra.get("regions", PAPER_REGIONS)) != dataset.regions:
            stale = "made for other regions than the data set has now"
        n = sum(shard["rows"] for shard in found["shards"])
        yield MaskStatus(kind, extra["complete"], n, found["fingerprint"], origin.get("boxes", ""), stale)


def _read_detector(dataset: Dataset, boxes: BoxStatus | None, runs: Store, names: list[str]) -> DetectorStatus | None:
    folders = [name.split("/")[1] for name in names if name.startswith("regions/") and name.endswith(f"/{METRICS}")]
    finished = {folder: runs.read_json(f"regions/{folder}/{METRICS}") for folder in dict.fromkeys(folders)}
    if not finished:
        return None
    newest = max(finished, key=lambda folder: float(finished[folder].get("finished", 0)))
    metrics, run = finished[newest], runs.child("regions", newest)
    config = yaml.safe_load(run.read_text("config.yaml")) if run.exists("config.yaml") else {}
    fingerprints = config.get("fingerprints") or {}
    stale = ""
    if fingerprints.get("data") != dataset.fingerprint:
        stale = "trained on other photographs than the data set has now"
    elif boxes is not None and fingerprints.get("annotated") != boxes.fingerprint:
        stale = "trained on other boxes than the data set has now"
    return DetectorStatus(run.uri, metrics["map50"], metrics["num_evaluated"], metrics["evaluated_on"], stale)


def _read_registry(dataset: Dataset, context: Context) -> RegistryStatus:
    name = model_name(dataset.name)
    if context.tracking.uri == OFF:
        return RegistryStatus(name, problem="tracking is off")
    try:
        found = list_registered(name, context)
    except UserError as error:  # what lies on storage can be shown without MLflow
        return RegistryStatus(name, problem=f"{error.where}: {error.what}")
    versions = tuple(_version_status(version, dataset) for version in found.versions)
    return RegistryStatus(name, versions, found.champion, found.challenger)


def _version_status(version: Version, dataset: Dataset) -> VersionStatus:
    tags = version.tags
    stale = ""
    if tags.get("data_fingerprint", dataset.fingerprint) != dataset.fingerprint:
        stale = "evaluated on other photographs than the data set has now"
    opponent = tags.get("promotion_opponent") if tags.get("promotion_data") == dataset.fingerprint else None
    return VersionStatus(version.number, version.run_id, tags.get("accuracy", ""), opponent, stale)


def _list_stale(status: Status) -> tuple[str, ...]:
    """A sentence for each thing that does not belong to the data set as it is now."""
    found = []
    if status.boxes is not None and status.boxes.stale:
        found.append(f"boxes: {status.boxes.stale}")
    if status.detector is not None and status.detector.stale:
        found.append(f"detector: {status.detector.stale}")
    found += [f"masks ({masks.kind}): {masks.stale}" for masks in status.masks if masks.stale]
    reasons = [run.stale for run in status.runs if run.stale]
    found += [f"{reasons.count(reason)} of {len(status.runs)} runs: {reason}" for reason in dict.fromkeys(reasons)]
    roles = {"champion": status.registry.champion, "challenger": status.registry.challenger}
    for version in status.registry.versions:
        named = [role for role, number in roles.items() if number == version.number]
        if version.stale and named:
            found.append(f"{' and '.join(named)} (version {version.number}): {version.stale}")
    return tuple(found)

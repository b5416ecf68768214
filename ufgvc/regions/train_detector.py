"""The step `detect`: trains the region detector on a few annotated leaves and measures it on leaves that it has not seen."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ufgvc.core.config import short_key, to_yaml
from ufgvc.core.errors import UserError, disk_errors
from ufgvc.core.process import git_commit, versions
from ufgvc.core.storage import Store, open_store
from ufgvc.core.types import REGIONS, Box
from ufgvc.data.dataset import Dataset, open_dataset, read_manifest
from ufgvc.regions.annotated import ANNOTATED, METRICS, DetectorSplit, list_annotated, photographs, split_annotated
from ufgvc.regions.boxes import as_array, average_precision, iou, max_boxes_per_region, select_boxes
from ufgvc.regions.detector import Detector, TrainingPlan, read_weights, train_detector
from ufgvc.regions.detector_figure import draw_detections
from ufgvc.regions.detector_table import format_table
from ufgvc.regions.letterbox import write_example
from ufgvc.regions.settings import DetectSettings
from ufgvc.regions.synthetic_init import synthetic_weights
from ufgvc.runtime.resources import choose_device
from ufgvc.tracking.context import Context
from ufgvc.tracking.registry import model_name, register_folder
from ufgvc.tracking.runs import Run, finish_run_on_exit, start_run

log = logging.getLogger(__name__)
COCO = "coco"
_BATCH = 16  # photographs measured at once
_FIGURE_LEAVES = 3


@dataclass(frozen=True)
class DetectResult:
    """run, model: URIs of the run's folder and of the detector in it. metrics: what metrics.json holds. found: it was there already."""

    run: str
    model: str
    metrics: dict[str, Any]
    found: bool = False

    def summary(self) -> str:
        m = self.metrics
        parts = ", ".join(f"{name} {value:.3f}" for name, value in m["map50_by_region"].items() if value is not None)
        return (
            f"mAP@0.5 {m['map50']:.3f} ({parts}) on {m['complete_n']} {m['measured_on']}; "
            f"every region found on {m['complete_k']} of {m['complete_n']}; trained on {m['trained_on']} leaves"
        )


def detect(
    data: str,
    settings: DetectSettings | None = None,
    context: Context = Context(),
) -> DetectResult:
    """Trains and measures a detector, or finds the one that the same data, settings and seed made before (unless `context.fresh`).

    Leaves <runs>/<dataset>/regions/<key>/ with config.yaml, model/, report/ and, last, metrics.json.
    """
    settings = settings or DetectSettings()
    dataset = open_dataset(data)
    manifest = read_manifest(dataset, ANNOTATED)
    inputs = {"data": dataset.fingerprint, "annotated": manifest.fingerprint, "init": _init_fingerprint(settings)}
    made_of = settings.model_dump(exclude={"device", "coco_weights"})
    key = short_key({"settings": made_of, "seed": context.seed, "inputs": inputs})
    store = open_store(context.runs).child(dataset.name, "regions", key)
    if not context.fresh and store.exists(METRICS):
        log.info("detect: found the same run in %s", store.uri)
        return DetectResult(store.uri, f"{store.uri}/model", store.read_json(METRICS), found=True)
    if context.fresh:
        store.delete_tree()  # the journal too: the run that it remembers is another one
    draw = split_annotated(list_annotated(dataset, manifest), settings.annotated, context.seed, dataset.store.uri)
    config = {
        "step": "detect",
        "data": dataset.store.uri,
        "seed": context.seed,
        "settings": settings.model_dump(),
        "fingerprints": inputs,
    }
    config |= {"versions": versions(), "git_commit": git_commit()}
    store.write_text("config.yaml", to_yaml(config))
    tags = {"step": "detect", "data": dataset.fingerprint, "folder": store.uri}
    run = start_run(context, dataset.name, f"regions-{key}", config, tags, None, None, store)
    with finish_run_on_exit(run):
        metrics = _run(dataset, draw, settings, context, store, inputs, run)
    _register(dataset, store, metrics, context, run)
    return DetectResult(store.uri, f"{store.uri}/model", metrics)


def _register(dataset: Dataset, store: Store, metrics: Mapping[str, Any], context: Context, run: Run) -> None:
    """Files the detector as a version of ufgvc-<dataset>-regions. A server that is away does not undo the work: it is told."""
    tags = {
        "map50": f"{metrics['map50']:.4f}",
        "complete": f"{metrics['complete_k']}/{metrics['complete_n']}",
        "data": dataset.fingerprint,
    }
    try:
        register_folder(
            f"{store.uri}/model", model_name(dataset.name, regions=True), tags, context, alias=None, run_id=run.id
        )
    except UserError as error:
        log.warning("the detector was not filed in the registry: %s", error)


def _run(
    dataset: Dataset,
    draw: DetectorSplit,
    settings: DetectSettings,
    context: Context,
    store: Store,
    inputs: Mapping[str, Any],
    run: Run,
) -> dict[str, Any]:
    started = time.monotonic()
    device = choose_device(settings.device)
    start = _first_weights(settings, context.runs, device)
    regions = tuple(
        region for region in REGIONS if any(box.region == region for leaf in draw.train for box in leaf.boxes)
    )
    plan = TrainingPlan(
        settings.weights,
        settings.image_size,
        settings.epochs,
        settings.batch,
        settings.learning_rate,
        settings.mosaic,
        context.seed,
    )
    log.info(
        "detect: %d annotated leaves to train, %d %s to measure", len(draw.train), len(draw.unseen), draw.measured_on
    )

    def told(epoch: int, losses: dict[str, float]) -> None:
        run.log_metrics(losses, epoch)
        if epoch == 1 or epoch % 10 == 0 or epoch == settings.epochs:
            spent = time.monotonic() - trained
            left = spent / epoch * (settings.epochs - epoch)
            parts = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
            log.info("detect: epoch %d/%d  %s  %.0f s, %.0f s to go", epoch, settings.epochs, parts, spent, left)

    with working_folder(store) as work:
        for number, (leaf, image) in enumerate(photographs(dataset, draw.train)):
            write_example(work / "yolo", f"{number:06d}", image, leaf.boxes, regions, settings.image_size)
        trained = time.monotonic()
        net = train_detector(work / "yolo", work, regions, plan, start, told, device)
        most = max_boxes_per_region(leaf.boxes for leaf in draw.train)
        detector = Detector(net, settings.weights, regions, settings.image_size, most)
        seconds = time.monotonic() - trained
        metrics, shown = measure(detector, dataset, draw, settings.confidence)
        metrics |= {
            "training_seconds": round(seconds, 1),
            "seconds": round(time.monotonic() - started, 1),
            "init": settings.init,
        }
        detector.info = {
            "dataset": dataset.name,
            "fingerprints": dict(inputs),
            "confidence": settings.confidence,
            "metrics": metrics,
        }
        detector.save(work / "model")
        (work / "report").mkdir()
        (work / "report" / "table1.md").write_text(format_table(dataset.name, metrics), encoding="utf-8")
        (work / "report" / "figure3.png").write_bytes(draw_detections(shown))
        for name in ("model", "report"):
            store.upload(work / name, name)
            run.log_folder(work / name, name)
    run.log_metrics(_scalars(metrics), settings.epochs)
    metrics["finished"] = round(time.time(), 1)
    store.write_json(METRICS, metrics)
    return metrics


def measure(
    detector: Detector, dataset: Dataset, draw: DetectorSplit, confidence: float
) -> tuple[dict[str, Any], list[Any]]:
    """Metrics on the leaves that the detector has not seen, and some of them with their boxes for the figure.

    mAP counts every detection of any score. "complete" counts leaves on which each annotated region was found: at least one box of score
    `confidence` or more overlaps a true one by an IoU of 0.5, among no more boxes of a region than the annotated training leaves have.
    """
    truths: list[tuple[Box, ...]] = []
    found: list[list[Box]] = []
    shown: list[Any] = []
    complete = 0
    stream = photographs(dataset, draw.unseen)
    while batch := [pair for _, pair in zip(range(_BATCH), stream, strict=False)]:
        for (leaf, image), boxes in zip(batch, detector.predict([image for _, image in batch]), strict=True):
            kept = select_boxes(boxes, confidence, detector.most)
            complete += all(_is_found(region, leaf.boxes, kept) for region in {box.region for box in leaf.boxes})
            truths.append(leaf.boxes)
            found.append(boxes)
            if len(shown) < _FIGURE_LEAVES:
                shown.append((leaf.image_id, image, kept))
    by_region = {region: average_precision(truths, found, region) for region in REGIONS}
    measured = [value for value in by_region.values() if value is not None]
    metrics = {
        "map50": float(np.mean(measured)) if measured else 0.0,
        "map50_by_region": by_region,
        "complete_k": complete,
        "complete_n": len(draw.unseen),
        "confidence": confidence,
        "trained_on": len(draw.train),
        "measured_on": draw.measured_on,
        "selection": "last epoch",
    }
    return metrics, shown


def _is_found(region: str, truth: Sequence[Box], found: Sequence[Box]) -> bool:
    pair = [as_array([box for box in boxes if box.region == region]) for boxes in (truth, found)]
    return bool((iou(*pair) >= 0.5).any())


@contextlib.contextmanager
def working_folder(store: Store) -> Iterator[Path]:
    """A local folder that is gone afterwards: inside the run's own where that is local. What a killed run left goes first."""
    parent = None
    if store.is_local:
        parent = store.local_path
        parent.mkdir(parents=True, exist_ok=True)
        for left in parent.glob("work-*"):
            if not _is_alive(left.name.split("-")[1]):
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"work-{os.getpid()}-", dir=parent) as name, disk_errors(name):
        yield Path(name)


def _is_alive(pid: str) -> bool:
    return pid.isdecimal() and Path("/proc", pid).exists()


def _first_weights(settings: DetectSettings, runs: str, device: str) -> dict[str, torch.Tensor] | None:
    if settings.init == "none":
        return None
    if settings.init == "synthetic":
        return synthetic_weights(runs, settings.weights, settings.pretrain, device)
    return read_weights(_init_file(settings))


def _init_file(settings: DetectSettings) -> Path:
    if settings.init != COCO:
        return Path(settings.init)
    name = f"{settings.weights}u.pt"
    if settings.coco_weights is None or not Path(settings.coco_weights).is_file():
        raise UserError(
            f"`init: coco` needs the file {name}, and nothing is downloaded",
            where=settings.coco_weights or "coco_weights",
            fix=f"get {name} from the releases of ultralytics and give its path as coco_weights, or use `init: synthetic`",
        )
    return Path(settings.coco_weights)


def _init_fingerprint(settings: DetectSettings) -> str:
    if settings.init in ("none", "synthetic"):
        return settings.init
    path = _init_file(settings)
    path = path / "weights.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise UserError(
            "there is no such file of detector weights",
            where=f"init: {path}",
            fix="use synthetic, coco, none, or a file",
        )
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    by_region = {f"map50_{region}": value for region, value in metrics["map50_by_region"].items() if value is not None}
    return {"map50": metrics["map50"], **by_region, "complete": metrics["complete_k"] / max(1, metrics["complete_n"])}

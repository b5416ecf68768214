"""Trains and evaluates the region detector: the command `detect`."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ufgvc.core.config import short_key, to_yaml
from ufgvc.core.errors import UserError, disk_errors
from ufgvc.core.process import git_commit, versions
from ufgvc.core.region_names import PAPER_REGIONS, join_names
from ufgvc.core.storage import Store, open_store
from ufgvc.data.dataset import Dataset, open_dataset, read_manifest
from ufgvc.regions.annotated import (
    ANNOTATED,
    DetectorSplit,
    list_annotated,
    read_pixels,
    split_annotated,
    write_example,
)
from ufgvc.regions.boxes import max_boxes_per_region
from ufgvc.regions.detector import Detector
from ufgvc.regions.detector_report import draw_detections, format_table
from ufgvc.regions.evaluate_detector import evaluate_detector
from ufgvc.regions.settings import METRICS, DetectSettings
from ufgvc.regions.synthetic_init import synthetic_detector, synthetic_weights
from ufgvc.regions.yolo import YoloConfig, read_weights, train_yolo
from ufgvc.runtime.resources import choose_device
from ufgvc.tracking.context import Context
from ufgvc.tracking.registry import model_name, register_folder
from ufgvc.tracking.runs import Run, finish_run_on_exit, start_run

log = logging.getLogger(__name__)
COCO = "coco"


@dataclass(frozen=True)
class DetectResult:
    """run, model: URIs of the run folder and of the detector. metrics: of metrics.json.  found: it existed before."""

    run: str
    model: str
    metrics: dict[str, Any]
    found: bool = False

    def summary(self) -> str:
        """One line for the user."""
        m = self.metrics
        parts = ", ".join(f"{name} {value:.3f}" for name, value in m["map50_by_region"].items() if value is not None)
        return (
            f"mAP@0.5 {m['map50']:.3f} ({parts}) on {m['num_evaluated']} {m['evaluated_on']}; "
            f"every region found on {m['num_complete']} of {m['num_evaluated']}; trained on {m['num_trained']} leaves"
        )


def detect(data: str, settings: DetectSettings | None = None, context: Context = Context()) -> DetectResult:
    """Trains and evaluates a detector, or finds the run of the same data, settings and seed (unless `context.fresh`).

    Writes <runs>/<dataset>/regions/<key>/ with config.yaml, model/, report/ and, last, metrics.json, and registers the
    detector. UserError if there are too few annotated images or the initial weights cannot be read.
    """
    settings = settings or DetectSettings()
    dataset = open_dataset(data)
    if not settings.num_annotated:
        check_synthetic(dataset)
    manifest = read_manifest(dataset, ANNOTATED)
    fingerprints = {"data": dataset.fingerprint, "annotated": manifest.fingerprint, "init": _init_fingerprint(settings)}
    result_settings = settings.model_dump(exclude={"device", "coco_weights"})
    key = short_key({"settings": result_settings, "seed": context.seed, "inputs": fingerprints})
    store = open_store(context.runs).child(dataset.name, "regions", key)
    if not context.fresh and store.exists(METRICS):
        log.info("detect: found the same run in %s", store.uri)
        return DetectResult(store.uri, f"{store.uri}/model", store.read_json(METRICS), found=True)
    if context.fresh:
        store.delete_tree()  # also the journal, which belongs to the previous run
    images = list_annotated(dataset, manifest)
    split = split_annotated(images, settings.num_annotated, context.seed, dataset.store.uri)
    config = {
        "step": "detect",
        "data": dataset.store.uri,
        "seed": context.seed,
        "settings": settings.model_dump(),
        "fingerprints": fingerprints,
        "versions": versions(),
        "git_commit": git_commit(),
    }
    store.write_text("config.yaml", to_yaml(config))
    tags = {"step": "detect", "data": dataset.fingerprint, "folder": store.uri}
    run = start_run(context, dataset.name, f"regions-{key}", config, tags, None, None, store)
    with finish_run_on_exit(run):
        metrics = _run(dataset, split, settings, context, store, fingerprints, run)
    _register(dataset, store, metrics, context, run)
    return DetectResult(store.uri, f"{store.uri}/model", metrics)


def check_synthetic(dataset: Dataset) -> None:
    """UserError unless the detector of synthetic leaves can find the regions of the data set."""
    own = [region for region in dataset.regions if region not in PAPER_REGIONS]
    if own:
        known = join_names(PAPER_REGIONS)
        what = f"the detector of synthetic leaves finds {known}, this data set has {join_names(own)}"
        raise UserError(what, where="--num-annotated 0", fix="annotate some leaves, and leave --num-annotated out")


def _register(dataset: Dataset, store: Store, metrics: Mapping[str, Any], context: Context, run: Run) -> None:
    """Registers the detector as a version of ufgvc-<dataset>-regions. A failure is only logged."""
    tags = {
        "map50": f"{metrics['map50']:.4f}",
        "complete": f"{metrics['num_complete']}/{metrics['num_evaluated']}",
        "data": dataset.fingerprint,
    }
    try:
        name = model_name(dataset.name, regions=True)
        register_folder(f"{store.uri}/model", name, tags, context, alias=None, run_id=run.id)
    except UserError as error:
        log.warning("the detector was not registered: %s", error)


def _run(
    dataset: Dataset,
    split: DetectorSplit,
    settings: DetectSettings,
    context: Context,
    store: Store,
    fingerprints: Mapping[str, Any],
    run: Run,
) -> dict[str, Any]:
    """Trains, evaluates and saves; returns the metrics, which are written to metrics.json."""
    started = time.monotonic()
    log.info("detect: %d leaves to train on, %d %s", len(split.train), len(split.evaluation), split.evaluated_on)
    with temporary_folder(store) as work:
        detector, seconds = _train(dataset, split, settings, context, work, run)
        metrics, examples = evaluate_detector(detector, dataset, split, settings.confidence)
        metrics |= {
            "training_seconds": round(seconds, 1),
            "seconds": round(time.monotonic() - started, 1),
            "init": settings.init,
        }
        detector.info = {
            "dataset": dataset.name,
            "fingerprints": dict(fingerprints),
            "confidence": settings.confidence,
            "metrics": metrics,
        }
        detector.save(work / "model")
        (work / "report").mkdir()
        (work / "report" / "table1.md").write_text(format_table(dataset.name, metrics), encoding="utf-8")
        (work / "report" / "figure3.png").write_bytes(draw_detections(examples, dataset.regions))
        for name in ("model", "report"):
            store.upload(work / name, name)
            run.log_folder(work / name, name)
    run.log_metrics(_scalars(metrics), settings.epochs)
    metrics["finished"] = round(time.time(), 1)
    store.write_json(METRICS, metrics)
    return metrics


def _train(
    dataset: Dataset, split: DetectorSplit, settings: DetectSettings, context: Context, work: Path, run: Run
) -> tuple[Detector, float]:
    """(detector, seconds of training)."""
    device = choose_device(settings.device)
    if not split.train:
        return synthetic_detector(context.runs, settings.model, settings.pretrain, device), 0.0
    init = _load_init(settings, context, device)
    boxes = [image.boxes for image in split.train]
    annotated = {box.region for some in boxes for box in some}
    regions = tuple(region for region in dataset.regions if region in annotated)
    for number, (image, pixels) in enumerate(read_pixels(dataset, split.train)):
        write_example(work / "yolo", f"{number:06d}", pixels, image.boxes, regions, settings.image_size)
    config = YoloConfig(
        model=settings.model,
        image_size=settings.image_size,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        mosaic=settings.mosaic,
        seed=context.seed,
    )
    started = time.monotonic()

    def on_epoch(epoch: int, losses: dict[str, float]) -> None:
        run.log_metrics(losses, epoch)
        if epoch == 1 or epoch % 10 == 0 or epoch == settings.epochs:
            spent = time.monotonic() - started
            left = spent / epoch * (settings.epochs - epoch)
            parts = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
            log.info("detect: epoch %d/%d  %s  %.0f s, %.0f s left", epoch, settings.epochs, parts, spent, left)

    net = train_yolo(work / "yolo", work, regions, config, init, on_epoch, device)
    detector = Detector(net, settings.model, regions, settings.image_size, max_boxes_per_region(boxes))
    return detector, time.monotonic() - started


@contextlib.contextmanager
def temporary_folder(store: Store) -> Iterator[Path]:
    """A local folder for the block, inside the run folder if that is local. Also deletes those of killed processes."""
    parent = None
    if store.is_local:
        parent = store.local_path
        parent.mkdir(parents=True, exist_ok=True)
        for folder in parent.glob("work-*"):
            if not _is_alive(folder.name.split("-")[1]):
                shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"work-{os.getpid()}-", dir=parent) as name, disk_errors(name):
        yield Path(name)


def _is_alive(pid: str) -> bool:
    return pid.isdecimal() and Path("/proc", pid).exists()


def _load_init(settings: DetectSettings, context: Context, device: str) -> dict[str, torch.Tensor] | None:
    if settings.init == "none":
        return None
    if settings.init == "synthetic":
        return synthetic_weights(context.runs, settings.model, settings.pretrain, device)
    return read_weights(_init_file(settings))


def _init_file(settings: DetectSettings) -> Path:
    if settings.init != COCO:
        return Path(settings.init)
    name = f"{settings.model}u.pt"
    if settings.coco_weights is None or not Path(settings.coco_weights).is_file():
        raise UserError(
            f"`init: coco` needs the file {name}, and nothing is downloaded",
            where=settings.coco_weights or "coco_weights",
            fix=f"get {name} from the releases of ultralytics and give its path as coco_weights, "
            "or use `init: synthetic`",
        )
    return Path(settings.coco_weights)


def _init_fingerprint(settings: DetectSettings) -> str:
    """What the run's key contains for the initial weights. UserError if their file does not exist."""
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
    complete = metrics["num_complete"] / max(1, metrics["num_evaluated"])
    return {"map50": metrics["map50"], **by_region, "complete": complete}

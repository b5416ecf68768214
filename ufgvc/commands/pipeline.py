"""`ufgvc pipeline`: ingest, detect, mask, train and evaluate in order.

Each step finds its own finished result; a changed setting repeats the steps that depend on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from ufgvc.commands import detect, evaluate, ingest, mask, train
from ufgvc.commands.fields import HasCompared, WritesData
from ufgvc.commands.ingest import HasSource
from ufgvc.commands.step import Step
from ufgvc.commands.train import Train
from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store
from ufgvc.data.ingest import IngestSettings
from ufgvc.evaluation.settings import EvaluateSettings
from ufgvc.regions.settings import DetectSettings, MaskSettings, check_kind
from ufgvc.runtime.session import keep_ray_session
from ufgvc.tracking.context import Context

Result = TypeVar("Result")


class Pipeline(HasCompared, WritesData, HasSource, Train):
    """Settings of `ufgvc pipeline`: those of `train`, and a section for each other step."""

    method: str = "auto"
    """name of the method; --options are its own"""
    ingest: IngestSettings = IngestSettings()
    """how the source is read"""
    detect: DetectSettings = DetectSettings()
    """the region detector"""
    mask: MaskSettings = MaskSettings()
    """the masks"""
    evaluate: EvaluateSettings = EvaluateSettings()
    """the evaluation"""

    @property
    def needs_masks(self) -> bool:
        """Whether the method is guided by masks: of regions that are named, or of all (None)."""
        regions = getattr(self.options, "regions", ())
        return regions is None or bool(regions)


def run(settings: Pipeline, context: Context) -> dict[str, Any]:
    """Runs all steps and prints a line for each. UserError, before anything runs, for what a later step would
    refuse. The result has that of each step by its name."""
    _check(settings, context)
    results: dict[str, Any] = {}
    with keep_ray_session():
        ingestion = settings.settings_for(ingest.Ingest, settings.ingest)
        results["ingest"] = ingest.to_json(_report("ingest", lambda: ingest.execute(ingestion, context)))
        if settings.needs_masks:
            results |= _find_masks(settings, context)
        trained = _report("train", lambda: train.execute(settings, context)).result
        shared = {"model": trained[0].model, "mask_kind": settings.mask_kind}
        evaluation = settings.settings_for(evaluate.Evaluate, settings.evaluate, **shared)
        results["train"] = {"runs": trained}
        results["evaluate"] = _report("evaluate", lambda: evaluate.execute(evaluation, context)).result
    return results


def _find_masks(settings: Pipeline, context: Context) -> dict[str, Any]:
    """The steps `detect` (exact masks need no detector) and `mask`; their results."""
    results: dict[str, Any] = {}
    detector = None
    if settings.mask_kind != "exact":
        detection = settings.settings_for(detect.Detect, settings.detect)
        results["detect"] = _report("detect", lambda: detect.execute(detection, context)).result
        detector = results["detect"].model
    shared = {"detector": detector, "mask_kind": settings.mask_kind}
    chosen = settings.settings_for(mask.Mask, settings.mask, **shared)
    results["mask"] = _report("mask", lambda: mask.execute(chosen, context)).result
    return results


def _report(name: str, execute: Callable[[], Step[Result]]) -> Step[Result]:
    """Executes a step and prints what it did."""
    started = time.monotonic()
    step = execute()
    note = "found, not done again" if step.found else f"{time.monotonic() - started:.0f} s"
    print(f"\n== {name} ({note})\n{step.summary}", flush=True)
    return step


def _check(settings: Pipeline, context: Context) -> None:
    """UserError for a training over folds, and for an MLflow, initial weights and models that only later steps need."""
    from ufgvc.experiments.candidates import check_validation
    from ufgvc.methods.weights import check_init
    from ufgvc.models.model import load_model
    from ufgvc.tracking.settings import resolve
    from ufgvc.training.preflight import check_weights
    from ufgvc.training.regions import check_regions

    resolve(context.tracking, context.runs)
    if settings.needs_masks:
        check_regions(settings.method, getattr(settings.options, "regions", None) or (), settings.ingest.regions)
        check_kind(settings.mask_kind, settings.ingest.regions)
    if settings.train.validation == "kfold" and settings.train.fold is None:
        raise UserError(
            "kfold trains a model for each fold, to measure; a pipeline needs one model to evaluate and register",
            where="--train.validation kfold",
            fix="use last, holdout or test here; after `ufgvc ingest` (and `mask`), "
            "`ufgvc train --train.validation kfold` measures",
        )
    if settings.method == "auto":
        check_validation(settings.train)
        check_init(settings.train.init, getattr(settings.options, "backbone", None))
    elif settings.train.init != "imagenet" or not open_store(settings.data).exists("dataset.json"):
        # Where an earlier call ingested, the training may be finished, and has a check of its own.
        check_weights(settings.method, settings.options.model_dump(mode="json"), settings.train.init, context.ray)
    for model in evaluate.labelled_models(settings.compare).values():
        load_model(model, context)

"""Calibrates a model that learnt from all training leaves: each is scored by a model of the same recipe that has not seen it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from pydantic import Field

from ufgvc.core.config import Settings
from ufgvc.core.errors import UserError
from ufgvc.core.storage import Store, join, open_store
from ufgvc.data.dataset import Dataset, open_dataset, read_index, read_manifest
from ufgvc.data.folds import fold_of
from ufgvc.evaluation.provenance import run_store
from ufgvc.experiments.benchmark_entries import decode
from ufgvc.experiments.mlflow_trials import Recorder
from ufgvc.experiments.settings import TrialSettings
from ufgvc.experiments.training_job import Job, read_scored
from ufgvc.experiments.trial_runner import check_nodes, run_all
from ufgvc.methods import build
from ufgvc.methods.method import Method
from ufgvc.methods.recipe import Recipe
from ufgvc.models.calibration import Calibration, FeatureSubspace
from ufgvc.models.fit_calibration import KNOWN_SHARE, calibrate, calibration_error, log_loss
from ufgvc.models.model import MODEL, load_model
from ufgvc.models.recalibrate import keep_calibration
from ufgvc.runtime.session import RaySettings, ray_session
from ufgvc.tracking.runs import finish_run_on_exit, start_run
from ufgvc.tracking.settings import TrackingSettings
from ufgvc.training.held_out import make_reference, score_held_out
from ufgvc.training.settings import WorkerConfig
from ufgvc.training.run import make_plan
from ufgvc.training.settings import TrainSettings

log = logging.getLogger(__name__)
# logits (N, K), labels (N,), strangeness (N,) of validation leaves, and what the model itself learnt from
Evidence = tuple[NDArray[Any], NDArray[np.int64], NDArray[np.float64], FeatureSubspace]


class CalibrateSettings(Settings):
    """Calibration of a trained model."""

    folds: int = Field(3, ge=2)
    """parts of the training leaves, each scored by a model trained on the others; not needed by a model that held leaves out"""
    known_share: float = Field(KNOWN_SHARE, gt=0, le=1)
    """share of the validation leaves that must not be called unknown"""
    trials: int | None = Field(None, ge=1)
    """folds trained at a time; default: as many as fit, on CPUs one a core"""
    cpus_per_trial: float = Field(1.0, gt=0)
    """CPU slots of each"""
    gpu_per_trial: float = Field(1.0, gt=0, le=1)
    """share of a GPU of each, where there are GPUs"""
    gpu: Literal["auto", "no"] = "auto"
    """train on GPUs where there are any"""
    max_failures: int = Field(3, ge=-1)
    """how often the lost process of a fold is replaced (-1: without end, for spot machines)"""


@dataclass(frozen=True)
class CalibrateResult:
    """model: URI of its folder.  figures: negative log likelihood (nats) and calibration error of the validation leaves."""

    model: str
    calibration: Calibration
    figures: Mapping[str, float]

    def summary(self) -> str:
        one, told = self.calibration, self.figures
        return (
            f"temperature {one.temperature:.3g} from {one.leaves} validation leaves ({one.source}): negative log likelihood "
            f"{told['log_loss_before']:.3f} -> {told['log_loss_after']:.3f}, calibration error "
            f"{100 * told['calibration_error_before']:.1f} -> {100 * told['calibration_error_after']:.1f} %\n"
            f"unknown above a strangeness of {one.threshold:.3g}, so that {100 * one.known_share:g} % of these leaves are known\n"
            f"written to {self.model}; `ufgvc evaluate` registers it as a new version, one that was registered before keeps its files"
        )


def calibrate_model(
    data: str,
    model: str,
    settings: CalibrateSettings,
    runs: str = "runs",
    tracking: TrackingSettings | None = None,
    ray: RaySettings | None = None,
) -> CalibrateResult:
    """Fits temperature and threshold on leaves that were not learnt from, never on test leaves, and writes them into the run's model.

    A model with leaves held out uses these. Else the recipe is trained anew on all parts but one, `folds` times; such a model has seen
    fewer leaves than the one that is calibrated, so the temperature is near the right one, not it. Killed and called again, it goes on.
    UserError for a model without a run folder, and for data, masks or first weights that are not those it was trained with.
    """
    tracking = tracking or TrackingSettings()
    dataset = open_dataset(data)
    run = find_run(model, tracking, runs)
    told = dict(yaml.safe_load(run.read_text("config.yaml")))
    check_same(run, dataset, told)
    if told["train"]["validation"] in ("holdout", "kfold"):
        source = f"{told['train']['validation']}, the leaves that chose the epoch"
        logits, labels, strangeness, reference = own_leaves(run, dataset, told, runs)
    else:
        source = f"{settings.folds}-fold"
        with ray_session(ray):
            logits, labels, strangeness, reference = out_of_fold(run, dataset, told, settings, runs, tracking)
    fitted = calibrate(logits, labels, strangeness, source, settings.known_share)
    keep_calibration(run, fitted, reference, dataset.name, tracking, runs)
    figures = {}
    for name, temperature in (("before", 1.0), ("after", fitted.temperature)):
        figures[f"log_loss_{name}"] = log_loss(logits, labels, temperature)
        figures[f"calibration_error_{name}"] = calibration_error(logits, labels, temperature)
    return CalibrateResult(join(run.uri, "model"), fitted, figures)


def find_run(model: str, tracking: TrackingSettings, runs: str) -> Store:
    """The folder of the run that made a model. UserError if it is not there."""
    run = run_store(model)
    if run is None and model.startswith(("models:", "runs:")):
        info = load_model(model, tracking, runs).info
        place = open_store(runs).child(*(str(info.get(part, "none")) for part in ("dataset", "method", "key")))
        run = place if place.exists("config.yaml") and place.exists(f"model/{MODEL}") else None
    if run is None:
        fix = "give <runs>/<data set>/<method>/<key>/model, where `ufgvc train` left it"
        raise UserError("lies in no run folder, so nobody knows how it was trained", where=model, fix=fix)
    return run


def check_same(run: Store, dataset: Dataset, told: Mapping[str, Any]) -> None:
    """UserError unless the data set is in the state that the model was trained on."""
    if told["data"] != dataset.fingerprint:
        what = f"has the fingerprint {dataset.fingerprint[:12]}, the model was trained on {str(told['data'])[:12]}"
        raise UserError(
            what, where=dataset.store.uri, fix="give the data set that it was trained on, or train on this one"
        )
    kind = told["train"]["mask"]
    if told["masks"] and read_manifest(dataset, f"masks/{kind}").fingerprint != told["masks"]:
        what = f"its {kind} masks are not those that {run.uri} was trained with"
        raise UserError(
            what, where=dataset.store.uri, fix="train the model again with the new masks, then calibrate that one"
        )


def fold_jobs(run: Store, dataset: Dataset, told: Mapping[str, Any], folds: int, runs: str) -> list[Job]:
    """A training for each fold, in one process each, below the run's folder."""
    jobs = []
    method = build(told["method"], len(dataset.classes), init="none", **told["options"])
    for fold in range(folds):
        changes = {"validation": "kfold", "folds": folds, "fold": fold, "workers": 1, "cache": "host"}
        train = TrainSettings.model_validate(told["train"] | changes)
        plan, identity = make_plan(dataset, method, train, told["seed"], told["masks"], runs)
        if identity.get("init_sha256") != told.get("init_sha256"):
            raise UserError(
                "is not the file that the model started from", where=train.init, fix="put the old file of weights back"
            )
        place = join(run.uri, "calibration", f"fold-{fold}-{identity['key']}")
        plan = replace(plan, run=place, recipe=told["recipe"])
        jobs.append(Job(told["method"], 0, told["seed"], 1.0, "fold", plan, identity))
    return jobs


def out_of_fold(
    run: Store,
    dataset: Dataset,
    told: Mapping[str, Any],
    settings: CalibrateSettings,
    runs: str,
    tracking: TrackingSettings,
) -> Evidence:
    """Every training leaf once, scored by the fold that did not learn from it. Inside of a Ray session."""
    index = read_index(dataset, "train")
    truth, groups, names = (
        index["label"].to_numpy().astype(np.int64),
        index["group"].to_pylist(),
        index["image_id"].to_pylist(),
    )
    try:
        held = [fold_of(truth, groups, settings.folds, fold, told["seed"])[1] for fold in range(settings.folds)]
    except UserError as error:
        raise UserError(
            error.what, where=dataset.store.uri, fix="ingest more photographs of it, or leave the model uncalibrated"
        ) from None
    jobs = fold_jobs(run, dataset, told, settings.folds, runs)
    trials = TrialSettings(
        init=jobs[0].plan.init,
        trials=settings.trials,
        cpus_per_trial=settings.cpus_per_trial,
        gpu_per_trial=settings.gpu_per_trial,
        gpu=settings.gpu,
        max_failures=settings.max_failures,
    )
    folder = run.child("calibration")
    tags = {"step": "calibrate", "method": told["method"], "data": dataset.fingerprint, "folder": folder.uri}
    parent = start_run(
        tracking,
        runs,
        dataset.name,
        f"calibrate-{told['method']}-{told['key']}",
        settings.model_dump(),
        tags,
        store=folder,
    )
    with finish_run_on_exit(parent):
        check_nodes([dataset.store.uri], runs, trials)
        decode(jobs, [dataset])
        ends = run_all(jobs, trials, folder.child("tune"), Recorder(tracking, runs, dataset.name, parent.id))
        failed = {end.job.name: str(end.error) for end in ends if end.result is None}
        if failed:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
            raise UserError(
                f"{len(failed)} of {len(ends)} folds failed: {reasons}",
                fix="mend it; the same command tries only these again",
            )
    logits, strangeness = (
        np.concatenate(
            [
                read_scored(job.store, [names[place] for place in places], column)
                for job, places in zip(jobs, held, strict=True)
            ]
        )
        for column in ("logits", "strangeness")
    )
    method, plan = as_trained(run, dataset, told, runs)
    return (
        logits,
        truth[np.concatenate(held)],
        strangeness,
        make_reference(method, dataset, plan, np.arange(len(truth)), own_device()),
    )


def own_leaves(run: Store, dataset: Dataset, told: Mapping[str, Any], runs: str) -> Evidence:
    """The leaves that the model's own training held out, scored by the model."""
    method, plan = as_trained(run, dataset, told, runs)
    held = score_held_out(method, dataset, plan, own_device())
    return held.logits, held.labels, held.strangeness, held.reference


def as_trained(run: Store, dataset: Dataset, told: Mapping[str, Any], runs: str) -> tuple[Method, WorkerConfig]:
    """The run's model, and the plan that it was trained by."""
    method = load_model(join(run.uri, "model")).method
    plan, _ = make_plan(dataset, method, TrainSettings.model_validate(told["train"]), told["seed"], told["masks"], runs)
    return replace(method, recipe=Recipe.model_validate(told["recipe"])), replace(plan, recipe=told["recipe"])


def own_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")

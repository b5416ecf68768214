"""Calibrates a trained model on leaves that it was not trained on: by cross-validation if none were held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from pydantic import Field

from ufgvc.core.config import Settings
from ufgvc.core.errors import UserError
from ufgvc.core.storage import Store, join, open_store
from ufgvc.data.dataset import Dataset, open_dataset, read_index, read_manifest
from ufgvc.data.splits import kfold_indices
from ufgvc.evaluation.provenance import run_store
from ufgvc.experiments.entries import decode_images
from ufgvc.experiments.mlflow_trials import JobRecorder
from ufgvc.experiments.resources import check_shared_storage, trial_resources
from ufgvc.experiments.settings import TrialSettings, gpus_to_wait_for
from ufgvc.experiments.training_job import TrainingJob, check_outcomes, read_scores, run_jobs
from ufgvc.methods import build
from ufgvc.methods.method import Method
from ufgvc.methods.recipe import Recipe
from ufgvc.models.calibration import (
    COVERAGE,
    Calibration,
    FeatureSubspace,
    expected_calibration_error,
    fit_calibration,
    log_loss,
)
from ufgvc.models.format import MODEL, write_calibration
from ufgvc.models.model import load_model
from ufgvc.runtime.resources import Device, choose_device
from ufgvc.runtime.session import ray_session
from ufgvc.tracking.context import Context
from ufgvc.tracking.runs import finish_run_on_exit, start_run
from ufgvc.training.held_out import fit_subspace, score_held_out
from ufgvc.training.run import make_worker_config
from ufgvc.training.settings import TrainSettings, WorkerConfig


@dataclass(frozen=True)
class ValidationScores:
    """Scores of N validation leaves: logits (N, K), labels (N,), ood_score (N,).

    subspace: of the features of the training leaves.
    """

    logits: NDArray[Any]
    labels: NDArray[np.int64]
    ood_score: NDArray[np.float64]
    subspace: FeatureSubspace


class CalibrateSettings(Settings):
    """Calibration of a trained model."""

    folds: int = Field(3, ge=2)
    """folds of the training leaves, each scored by a model trained on the others; unused with held-out leaves"""
    coverage: float = Field(COVERAGE, gt=0, le=1)
    """share of the validation leaves that must not be called unknown"""
    max_concurrent_trials: int | None = Field(None, ge=1)
    """folds trained at a time; default: as many as fit, and without GPUs at most one per core"""
    cpus_per_trial: float = Field(1.0, gt=0)
    """CPU slots of each training"""
    gpu_per_trial: float = Field(1.0, gt=0, le=1)
    """fraction of a GPU of each training, if there are GPUs"""
    device: Device = "auto"
    """cpu, gpu, or auto: GPUs if there are any"""
    max_failures: int = Field(3, ge=-1)
    """how often the lost process of a training is replaced; -1: without limit, for spot machines"""


@dataclass(frozen=True)
class CalibrateResult:
    """What a calibration returns.

    model: URI of its folder.  metrics: negative log likelihood (nats) and calibration error in [0, 1] of the
    validation leaves, before and after.
    """

    model: str
    calibration: Calibration
    metrics: Mapping[str, float]

    def summary(self) -> str:
        """The lines for the terminal."""
        fitted, metrics = self.calibration, self.metrics
        before, after = (100 * metrics[f"calibration_error_{name}"] for name in ("before", "after"))
        return (
            f"temperature {fitted.temperature:.3g} from {fitted.num_images} validation leaves ({fitted.source}): "
            f"negative log likelihood {metrics['log_loss_before']:.3f} -> {metrics['log_loss_after']:.3f}, "
            f"calibration error {before:.1f} -> {after:.1f} %\n"
            f"unknown above an out-of-distribution score of {fitted.threshold:.3g}, "
            f"so that {100 * fitted.coverage:g} % of these leaves are known\n"
            f"written to {self.model}; `ufgvc evaluate` registers it as a new version; earlier versions do not change"
        )


def calibrate_model(
    data: str, model: str, settings: CalibrateSettings, context: Context = Context()
) -> CalibrateResult:
    """Fits temperature and threshold on leaves that the model was not trained on, and writes them to its run.

    A model with held-out leaves is scored on these. For any other model the same training is run on all folds but one,
    `folds` times; such a model has seen fewer leaves than the calibrated one, so the temperature is an approximation.
    Test leaves are never used. The same call resumes trainings that were stopped.
    UserError for a model without a run folder, and for data, masks or initial weights that have changed.
    """
    dataset = open_dataset(data)
    run = find_run(model, context)
    config = dict(yaml.safe_load(run.read_text("config.yaml")))
    check_unchanged(run, dataset, config)
    if config["train"]["validation"] in ("holdout", "kfold"):
        source = f"{config['train']['validation']}, the leaves that chose the epoch"
        scores = score_own_held_out(run, dataset, config, context.runs)
    else:
        source = f"{settings.folds}-fold"
        gpus = gpus_to_wait_for(settings.device, settings.max_concurrent_trials, settings.gpu_per_trial)
        with ray_session(context.ray, gpus):
            scores = cross_validate(run, dataset, config, settings, context)
    fitted = fit_calibration(scores.logits, scores.labels, scores.ood_score, source, settings.coverage)
    write_calibration(run, fitted, scores.subspace, dataset.name, context)
    metrics = {}
    for name, temperature in (("before", 1.0), ("after", fitted.temperature)):
        metrics[f"log_loss_{name}"] = log_loss(scores.logits, scores.labels, temperature)
        metrics[f"calibration_error_{name}"] = expected_calibration_error(scores.logits, scores.labels, temperature)
    return CalibrateResult(join(run.uri, "model"), fitted, metrics)


def find_run(model: str, context: Context) -> Store:
    """The folder of the run that trained a model. UserError if it is not there."""
    run = run_store(model)
    if run is None and model.startswith(("models:", "runs:")):
        info = load_model(model, context).info
        folder = open_store(context.runs).child(*(str(info.get(part, "none")) for part in ("dataset", "method", "key")))
        run = folder if folder.exists("config.yaml") and folder.exists(f"model/{MODEL}") else None
    if run is None:
        fix = "give <runs>/<data set>/<method>/<key>/model, where `ufgvc train` wrote it"
        raise UserError("is in no run folder, so its training is not known", where=model, fix=fix)
    return run


def check_unchanged(run: Store, dataset: Dataset, config: Mapping[str, Any]) -> None:
    """UserError unless data set and masks are those that the model was trained on.  config: of its run."""
    if config["data"] != dataset.fingerprint:
        what = f"has the fingerprint {dataset.fingerprint[:12]}, the model was trained on {str(config['data'])[:12]}"
        fix = "give the data set that it was trained on, or train on this one"
        raise UserError(what, where=dataset.store.uri, fix=fix)
    kind = config["train"]["mask_kind"]
    if config["masks"] and read_manifest(dataset, f"masks/{kind}").fingerprint != config["masks"]:
        what = f"its {kind} masks are not those that {run.uri} was trained with"
        fix = "train the model again with the new masks, then calibrate that one"
        raise UserError(what, where=dataset.store.uri, fix=fix)


def make_fold_jobs(run: Store, dataset: Dataset, config: Mapping[str, Any], folds: int, runs: str) -> list[TrainingJob]:
    """A training for each fold, in one process each, in folders below the run's.  config: of the run."""
    jobs = []
    method = build(config["method"], len(dataset.classes), init="none", **config["options"])
    for fold in range(folds):
        changes = {"validation": "kfold", "folds": folds, "fold": fold, "workers": 1, "cache": "host"}
        train = TrainSettings.model_validate(config["train"] | changes)
        worker, identity = make_worker_config(dataset, method, train, config["seed"], config["masks"], runs)
        if identity.get("init_sha256") != config.get("init_sha256"):
            what = "is not the file of initial weights that the model was trained from"
            raise UserError(what, where=train.init, fix="restore the earlier file")
        score = 2 if method.recipe.classifier_fit else 3  # raised with its formula: old scores are computed again
        folder = join(run.uri, "calibration", f"fold-{fold}-{identity['key']}-{score}")
        worker = replace(worker, run=folder, recipe=config["recipe"])
        jobs.append(TrainingJob(config["method"], 0, config["seed"], 1.0, "fold", worker, identity))
    return jobs


def cross_validate(
    run: Store, dataset: Dataset, config: Mapping[str, Any], settings: CalibrateSettings, context: Context
) -> ValidationScores:
    """Scores every training leaf once, with the model of the fold that held it out. Inside a Ray session.

    config: of the run of the model that is calibrated.
    """
    index = read_index(dataset, "train")
    labels = index["label"].to_numpy().astype(np.int64)
    groups, image_ids = index["group"].to_pylist(), index["image_id"].to_pylist()
    folds = range(settings.folds)
    try:
        held = [kfold_indices(labels, groups, settings.folds, fold, config["seed"])[1] for fold in folds]
    except UserError as error:
        fix = "ingest more photographs of it, or leave the model uncalibrated"
        raise UserError(error.what, where=dataset.store.uri, fix=fix) from None
    jobs = make_fold_jobs(run, dataset, config, settings.folds, context.runs)
    _train_folds(run, dataset, config, jobs, settings, context)

    def collect(column: str) -> NDArray[np.float64]:
        held_ids = ([image_ids[place] for place in places] for places in held)
        return np.concatenate([read_scores(job.store, ids, column) for job, ids in zip(jobs, held_ids, strict=True)])

    method, worker = load_trained(run, dataset, config, context.runs)
    everything = np.arange(len(labels))
    subspace = fit_subspace(method, dataset, worker, everything, torch.device(choose_device("auto")))
    return ValidationScores(collect("logits"), labels[np.concatenate(held)], collect("ood_score"), subspace)


def _train_folds(
    run: Store,
    dataset: Dataset,
    config: Mapping[str, Any],
    jobs: list[TrainingJob],
    settings: CalibrateSettings,
    context: Context,
) -> None:
    """Runs the jobs of the folds and records them. UserError if one failed."""
    folder = run.child("calibration")
    shared = settings.model_dump(exclude={"folds", "coverage"})
    trials = TrialSettings(init=jobs[0].config.train.init, **shared)
    tags = {"step": "calibrate", "method": config["method"], "data": dataset.fingerprint, "folder": folder.uri}
    name = f"calibrate-{config['method']}-{config['key']}"
    parent = start_run(context, dataset.name, name, settings.model_dump(), tags, store=folder)
    with finish_run_on_exit(parent):
        check_shared_storage([dataset.store.uri], context.runs, trials.init)
        decode_images(jobs, [dataset])
        recorder = JobRecorder(context, dataset.name, parent.id)
        resources = trial_resources(trials)
        check_outcomes(run_jobs(jobs, resources, folder.child("tune"), trials.max_failures, recorder), "folds")


def score_own_held_out(run: Store, dataset: Dataset, config: Mapping[str, Any], runs: str) -> ValidationScores:
    """Scores the leaves that the training of the model held out, with the model."""
    method, worker = load_trained(run, dataset, config, runs)
    held = score_held_out(method, dataset, worker, torch.device(choose_device("auto")))
    return ValidationScores(held.logits, held.labels, held.ood_score, held.subspace)


def load_trained(run: Store, dataset: Dataset, config: Mapping[str, Any], runs: str) -> tuple[Method, WorkerConfig]:
    """The model of a run, and the configuration of its training."""
    method = load_model(join(run.uri, "model")).method
    train = TrainSettings.model_validate(config["train"])
    worker, _ = make_worker_config(dataset, method, train, config["seed"], config["masks"], runs)
    recipe = Recipe.model_validate(config["recipe"])
    return replace(method, recipe=recipe), replace(worker, recipe=config["recipe"])

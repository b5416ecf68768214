"""The search: cross-validates settings on the training leaves, tests the best one, and writes a report."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ufgvc.core.config import short_key, to_yaml
from ufgvc.core.errors import UserError
from ufgvc.core.storage import join, open_store
from ufgvc.data.cache import load_decoded_split
from ufgvc.data.dataset import Dataset, open_dataset, read_index
from ufgvc.data.splits import kfold_indices
from ufgvc.evaluation.search_record import FinalResult, SearchRecord, TrialResult
from ufgvc.evaluation.search_summary import summarize
from ufgvc.experiments.entries import resolve_init
from ufgvc.experiments.final_evaluation import evaluate_finalists
from ufgvc.experiments.mlflow_trials import JobRecorder, TrialRecorder
from ufgvc.experiments.resources import check_shared_storage, trial_resources
from ufgvc.experiments.results import table_files, write_report
from ufgvc.experiments.search_space import apply_values, describe_dimension, paper_values, read_space
from ufgvc.experiments.search_store import SearchStore, TrialConfig
from ufgvc.experiments.search_trial import best_trial, run_trials
from ufgvc.experiments.settings import SearchSettings, TrialSettings, gpus_to_wait_for
from ufgvc.methods.recipe import Recipe
from ufgvc.methods.weights import check_init
from ufgvc.regions.mask_results import check_masks
from ufgvc.reports.page import footer
from ufgvc.reports.search_page import compose_search, summary_text
from ufgvc.reports.search_tables import search_tables, to_csv
from ufgvc.reports.tables import Table
from ufgvc.runtime.session import ray_session
from ufgvc.tracking.client import require_mlflow
from ufgvc.tracking.context import Context
from ufgvc.tracking.runs import Run, finish_run_on_exit, start_run
from ufgvc.training.regions import check_regions, use_regions
from ufgvc.training.settings import TrainSettings, WorkerConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchResult:
    """What a search returns.

    folder: URI of report.html, trials.csv and best.yaml.  tables: for the terminal.  summary: the result in sentences.
    best: number of the best trial.  failed: number of final trainings without a result.
    """

    folder: str
    tables: tuple[Table, ...]
    summary: str
    best: int
    failed: int


def search(
    data: str,
    method: str,
    options: Mapping[str, Any],
    train: TrainSettings,
    settings: SearchSettings,
    context: Context = Context(),
) -> SearchResult:
    """Runs the trials that a search still lacks and writes its report. The same call resumes a search that was stopped.

    The test leaves are read once, at the end, for the best setting and the paper's.  UserError, before anything is
    trained, for what cannot work, and if no trial completed. A trial that fails is a failed trial of the report.
    """
    dataset = open_dataset(data)
    options = use_regions(method, options, dataset.regions)
    store = make_store(dataset, method, options, train, settings, context)
    epochs = validate(store, dataset)
    folder = open_store(store.folder)
    if not folder.exists("config.yaml"):
        require_mlflow(context)  # a resumed search may run while MLflow is away: the journal keeps what it misses
    space = {dimension.name: describe_dimension(dimension) for dimension in store.dimensions}
    params = {
        "method": method,
        "options": dict(store.options),
        "train": store.train.model_dump(mode="json"),
        "seed": context.seed,
        "search": settings.model_dump(mode="json") | {"space": space},
    }
    folder.write_text("config.yaml", to_yaml(params))
    tags = {"step": "search", "method": method, "folder": folder.uri, "data": dataset.fingerprint}
    run = start_run(context, experiment=dataset.name, name=f"search-{method}", params=params, tags=tags, store=folder)
    with finish_run_on_exit(run):
        each = settings.gpu_per_trial if train.workers == 1 else float(train.workers)
        with ray_session(context.ray, gpus_to_wait_for(train.device, settings.max_concurrent_trials, each)):
            check_shared_storage([store.data], store.runs, store.train.init)
            resources = trial_resources(trial_settings(store.train, settings), store.train)
            decode_folds(store, dataset)
            results = run_trials(
                store, settings, epochs, resources, TrialRecorder(context, store, dataset.name, run.id)
            )
            best = choose_best(store, results)
            recorder = JobRecorder(context, dataset.name, run.id)
            finals, failed = evaluate_finalists(store, best, settings, resources, recorder)
        record = make_record(store, dataset, settings, epochs, results, best, finals)
        return _report(record, store, run, best.number, failed)


def make_store(
    dataset: Dataset,
    method: str,
    options: Mapping[str, Any],
    train: TrainSettings,
    settings: SearchSettings,
    context: Context,
) -> SearchStore:
    """Its folder is named by what determines the results. UserError for a space that cannot be searched."""
    if train.validation != "last":
        what = "a search makes its own folds of the training leaves"
        raise UserError(what, where="train.validation", fix="leave it out; `search.folds` is their number")
    dimensions = read_space(settings.space, method, options, train)
    _, shared = apply_values(method, options, train, {})
    if "{backbone}" not in shared.init:
        shared = shared.model_copy(update={"init": resolve_init(shared.init, "")})
    determining = [
        method,
        options,
        shared.result_affecting(),
        settings.result_affecting(),
        [describe_dimension(dimension) for dimension in dimensions],
        context.seed,
        dataset.fingerprint,
    ]
    runs = open_store(context.runs)
    return SearchStore(
        data=dataset.store.uri,
        method=method,
        options=dict(options),
        train=shared,
        dimensions=dimensions,
        folds=settings.folds,
        seed=context.seed,
        runs=runs.uri,
        folder=runs.child(dataset.name, "search", f"{method}-{short_key(determining)}").uri,
    )


def validate(store: SearchStore, dataset: Dataset) -> int:
    """UserError for what would end every trial. Returns the epochs of a complete trial."""
    index = read_index(dataset, "train")
    try:
        kfold_indices(
            index["label"].to_numpy().astype(np.int64), index["group"].to_pylist(), store.folds, 0, store.seed
        )
    except UserError as error:
        fix = "ingest more photographs: a search holds leaves of every cultivar out"
        raise UserError(error.what, where=dataset.store.uri, fix=fix) from None
    for dimension in store.dimensions:
        for kind in dimension.choices if dimension.name == "train.mask_kind" else ():
            check_masks(dataset, str(kind))
        for regions in dimension.choices if dimension.name == "options.regions" else ():
            check_regions(store.method, regions, dataset.regions)
    config = paper_worker_config(store)
    if config.mask_kind:
        check_masks(dataset, config.mask_kind)
    check_init(config.train.init, config.options.get("backbone"))
    return Recipe.model_validate(config.recipe).epochs


def paper_worker_config(store: SearchStore) -> WorkerConfig:
    """The training of the first fold with the paper's setting."""
    values = paper_values(store.dimensions, store.method, store.options, store.train)
    return store.worker_configs(TrialConfig(0, values))[0]


def trial_settings(train: TrainSettings, settings: SearchSettings) -> TrialSettings:
    """What trials of one worker share with the trainings of a benchmark."""
    return TrialSettings(
        init=train.init,
        max_concurrent_trials=settings.max_concurrent_trials,
        cpus_per_trial=train.cpus_per_worker,
        gpu_per_trial=settings.gpu_per_trial,
        device=train.device,
        precision=train.precision,
        checkpoint_seconds=train.checkpoint_seconds,
        max_failures=settings.max_failures,
    )


def decode_folds(store: SearchStore, dataset: Dataset) -> None:
    """Decodes the training leaves once on this node, before trials take its CPUs; they only map the files."""
    config = paper_worker_config(store)
    recipe, folder = Recipe.model_validate(config.recipe), Path(config.cache_folder)
    if config.train.cache != "none":
        load_decoded_split(dataset, "train", recipe.resize, config.mask_kind, config.mask_fingerprint, folder)
    load_decoded_split(dataset, "train", recipe.eval_resize, None, None, folder)


def choose_best(store: SearchStore, results: Sequence[TrialResult]) -> TrialResult:
    """The best trial; writes its configuration to best.yaml. UserError, with the reasons, if no trial completed."""
    best = best_trial(results)
    if best is None:
        reasons = (
            "; ".join(dict.fromkeys(str(each.error) for each in results if each.error)) or "all were stopped early"
        )
        fix = "fix the cause; the same command tries again"
        raise UserError(f"no trial completed: {reasons}", where=store.folder, fix=fix)
    open_store(store.folder).write_text("best.yaml", to_yaml(train_configuration(store, best.values)))
    return best


def train_configuration(store: SearchStore, values: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration for `train --config`. Its runs are those that the search has tested."""
    options, train = store.configure(values)
    given = {name: value for name, value in train.model_dump(mode="json").items() if value is not None}
    mask_kind = given.pop("mask_kind")  # one setting for all commands, at the top level
    return {"method": store.method, "options": options, "mask_kind": mask_kind, "train": given, "seed": store.seed}


def make_record(
    store: SearchStore,
    dataset: Dataset,
    settings: SearchSettings,
    epochs: int,
    results: Sequence[TrialResult],
    best: TrialResult,
    finals: tuple[FinalResult, ...],
) -> SearchRecord:
    """Everything that the report of the search shows."""
    asha = f"ASHA, from epoch {settings.grace_epochs}, 1 of {settings.reduction:g}"
    return SearchRecord(
        dataset=dataset.name,
        method=store.method,
        dimensions=store.dimensions,
        trials=tuple(results),
        best=best.number,
        leaves=dataset.counts["train"],
        folds=store.folds,
        epochs=epochs,
        labels=read_index(dataset, "test")["label"].to_numpy().astype(np.int64) if finals else np.zeros(0, np.int64),
        finals=finals,
        wall=store.wall_seconds(),
        facts={
            "data": f"{dataset.name}, {dataset.counts['train']} training and {dataset.counts['test']} test leaves",
            "fingerprint": dataset.fingerprint[:16],
            "initial weights": store.train.init,
            "sampler": settings.sampler,
            "early stopping": asha if settings.early_stopping else "none",
            "backbone": str(store.options.get("backbone", store.method)),
        },
    )


def _report(record: SearchRecord, store: SearchStore, run: Run, best: int, failed: int) -> SearchResult:
    summary = summarize(record)
    tables = search_tables(record, summary)
    folder = open_store(store.folder)
    files = table_files(tables) | {"trials.csv": to_csv(record)}
    write_report(folder, run, compose_search(record, footer(), summary), files)
    run.log_artifact_bytes("best.yaml", folder.read_bytes("best.yaml"))
    log.info("report: %s", join(folder.uri, "report.html"))
    return SearchResult(folder.uri, tuple(tables.values()), summary_text(record, summary), best, failed)

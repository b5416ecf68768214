"""`search`: settings tried by cross-validation on the training leaves, the best one tested beside the paper's, one report."""

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
from ufgvc.data.cache import decoded_split
from ufgvc.data.dataset import Dataset, open_dataset, read_index
from ufgvc.data.folds import fold_of
from ufgvc.evaluation.search_record import Dimension, FinalRow, SearchRecord, TrialResult
from ufgvc.evaluation.search_result import measure
from ufgvc.experiments.benchmark_entries import decode, first_weights
from ufgvc.experiments.final_evaluation import BEST, PAPER, best_of, final_jobs, final_rows
from ufgvc.experiments.mlflow_trials import Recorder, SearchRecorder
from ufgvc.experiments.search_runner import run_trials, share_now, trial_settings
from ufgvc.experiments.search_store import SearchStore, TrialConfig
from ufgvc.experiments.settings import SearchSettings
from ufgvc.experiments.space import configured, paper_values, read_space
from ufgvc.experiments.trial_runner import check_nodes, run_all
from ufgvc.methods.recipe import Recipe
from ufgvc.methods.weights import check_init
from ufgvc.regions.mask_results import check_masks
from ufgvc.reports.page import made_now
from ufgvc.reports.search_page import compose_search
from ufgvc.reports.search_tables import search_tables, to_csv
from ufgvc.reports.search_text import reading
from ufgvc.reports.tables import Table
from ufgvc.runtime.session import RaySettings, ray_session
from ufgvc.tracking.runs import Run, finish_run_on_exit, require_mlflow, start_run
from ufgvc.tracking.settings import TrackingSettings
from ufgvc.training.settings import WorkerConfig
from ufgvc.training.settings import TrainSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SearchDone:
    """folder: URI of report.html, trials.csv and best.yaml.  tables: what the terminal shows.  best: number of the best trial.

    failed: trainings at the end, of the best or the paper's setting, that gave no figure.
    """

    folder: str
    tables: tuple[Table, ...]
    reading: str
    best: int
    failed: int


def search(
    data: str,
    method: str,
    options: Mapping[str, Any],
    train: TrainSettings,
    settings: SearchSettings,
    runs: str = "runs",
    seed: int = 0,
    tracking: TrackingSettings | None = None,
    ray: RaySettings | None = None,
) -> SearchDone:
    """Runs what is missing of a search and writes its report; killed and called again, it goes on.

    The test leaves are opened once, at the end, for the best setting and the paper's.  UserError for what cannot work, before anything
    is trained, and if no trial completed. A trial that fails is a failed trial of the report.
    """
    tracking = tracking or TrackingSettings()
    dataset = open_dataset(data)
    study = make_study(dataset, method, options, train, settings, runs, seed)
    epochs = check(study, dataset)
    folder = open_store(study.folder)
    if not folder.exists("config.yaml"):
        require_mlflow(tracking, runs)  # later it may be away: what it misses waits in the journal
    told = {
        "method": method,
        "options": dict(study.options),
        "train": study.train.model_dump(mode="json"),
        "seed": seed,
    }
    told["search"] = settings.model_dump(mode="json") | {"space": {axis.name: _told(axis) for axis in study.axes}}
    folder.write_text("config.yaml", to_yaml(told))
    tags = {"step": "search", "method": method, "folder": folder.uri, "data": dataset.fingerprint}
    run = start_run(
        tracking, runs, experiment=dataset.name, name=f"search-{method}", params=told, tags=tags, store=folder
    )
    with finish_run_on_exit(run):
        with ray_session(ray):
            rows, finals, failed = _train(study, dataset, settings, epochs, run, tracking)
        return _report(study, dataset, settings, epochs, rows, finals, failed, run)


def make_study(
    dataset: Dataset,
    method: str,
    options: Mapping[str, Any],
    train: TrainSettings,
    settings: SearchSettings,
    runs: str,
    seed: int,
) -> SearchStore:
    """Its folder is named by what decides the figures. UserError for a space that cannot be searched."""
    if train.validation != "last":
        what = "a search holds out its own folds of the training leaves"
        raise UserError(what, where="train.validation", fix="leave it out; `search.folds` says how many")
    axes = read_space(settings.space, method, options, train)
    _, shared = configured(method, options, train, {})
    if "{backbone}" not in shared.init:
        shared = shared.model_copy(update={"init": first_weights(shared.init, "")})
    decided = [
        method,
        options,
        shared.result_affecting(),
        settings.result_affecting(),
        [_told(axis) for axis in axes],
        seed,
        dataset.fingerprint,
    ]
    folder = open_store(runs).child(dataset.name, "search", f"{method}-{short_key(decided)}")
    return SearchStore(
        dataset.store.uri, method, dict(options), shared, axes, settings.folds, seed, open_store(runs).uri, folder.uri
    )


def check(study: SearchStore, dataset: Dataset) -> int:
    """UserError for what would end every trial; the epochs of a complete one."""
    index = read_index(dataset, "train")
    try:
        fold_of(index["label"].to_numpy().astype(np.int64), index["group"].to_pylist(), study.folds, 0, study.seed)
    except UserError as error:
        raise UserError(
            error.what, where=dataset.store.uri, fix="ingest more photographs of it: a search holds leaves out"
        ) from None
    for axis in study.axes:
        for kind in axis.choices if axis.name == "train.mask" else ():
            check_masks(dataset, str(kind))
    plans = study.plans(TrialConfig(0, paper_values(study.axes, study.method, study.options, study.train)))
    if plans[0].mask_kind:
        check_masks(dataset, plans[0].mask_kind)
    check_init(plans[0].init)
    return Recipe.model_validate(plans[0].recipe).epochs


def _train(
    study: SearchStore, dataset: Dataset, settings: SearchSettings, epochs: int, run: Run, tracking: TrackingSettings
) -> tuple[list[TrialResult], tuple[FinalRow, ...], int]:
    check_nodes([study.data], study.runs, trial_settings(study.train, settings))
    share = share_now(study.train, settings)
    paper = paper_values(study.axes, study.method, study.options, study.train)
    decode_folds(study.plans(TrialConfig(0, paper))[0], dataset)
    rows = run_trials(study, settings, epochs, share, SearchRecorder(tracking, study, dataset.name, run.id))
    best = best_of(rows)
    if best is None:
        reasons = "; ".join(dict.fromkeys(str(row.error) for row in rows if row.error)) or "all were stopped early"
        raise UserError(
            f"no trial completed: {reasons}", where=study.folder, fix="mend it; the same command tries again"
        )
    open_store(study.folder).write_text("best.yaml", to_yaml(as_configuration(study, best.values)))
    if settings.seeds == 0:
        return rows, (), 0
    tested: dict[str, Mapping[str, Any]] = {PAPER: study.settings()[0].values} | (
        {BEST: best.values} if best.number else {}
    )
    jobs = final_jobs(study, tested, settings.seeds)
    decode(jobs, [dataset])
    record = Recorder(tracking, study.runs, dataset.name, run.id)
    ends = run_all(jobs, trial_settings(study.train, settings), open_store(study.folder).child("tune"), record, share)
    return rows, final_rows(study, tested, ends), sum(end.result is None for end in ends)


def decode_folds(plan: WorkerConfig, dataset: Dataset) -> None:
    """Decodes the training leaves once on this node, before trials take its processors; they only map the files."""
    recipe, folder = Recipe.model_validate(plan.recipe), Path(plan.cache_folder)
    if plan.cache != "none":
        decoded_split(dataset, "train", recipe.resize, plan.mask_kind, plan.mask_fingerprint, folder)
    decoded_split(dataset, "train", recipe.eval_resize, None, None, folder)


def as_configuration(study: SearchStore, values: Mapping[str, Any]) -> dict[str, Any]:
    """What `train --config` takes: the runs that it makes are those that the search has tested."""
    options, train = study.configured(values)
    given = {name: value for name, value in train.model_dump(mode="json").items() if value is not None}
    return {"method": study.method, "options": options, "train": given, "seed": study.seed}


def _report(
    study: SearchStore,
    dataset: Dataset,
    settings: SearchSettings,
    epochs: int,
    rows: Sequence[TrialResult],
    finals: tuple[FinalRow, ...],
    failed: int,
    run: Run,
) -> SearchDone:
    best = best_of(rows)
    assert best is not None
    story = SearchRecord(
        dataset=dataset.name,
        method=study.method,
        axes=study.axes,
        trials=tuple(rows),
        best=best.number,
        leaves=dataset.counts["train"],
        folds=study.folds,
        epochs=epochs,
        labels=read_index(dataset, "test")["label"].to_numpy().astype(np.int64) if finals else np.zeros(0, np.int64),
        finals=finals,
        wall=study.wall(),
        facts=facts(study, dataset, settings),
    )
    result = measure(story)
    page = compose_search(story, made_now(), result)
    tables = search_tables(story, result)
    files = {f"table-{name}.md": f"{table.to_markdown()}\n\n{table.note}\n".encode() for name, table in tables.items()}
    files |= {"trials.csv": to_csv(story).encode(), "report.html": page.to_html().encode()}
    files |= {f"{figure.name}.png": figure.to_png() for figure in page.figures}
    folder = open_store(study.folder)
    for name, content in files.items():
        folder.write_bytes(name, content)
        run.log_artifact_bytes(f"report/{name}", content)
    run.log_artifact_bytes("best.yaml", folder.read_bytes("best.yaml"))
    log.info("report: %s", join(folder.uri, "report.html"))
    return SearchDone(folder.uri, tuple(tables.values()), reading(story, result), best.number, failed)


def facts(study: SearchStore, dataset: Dataset, settings: SearchSettings) -> dict[str, str]:
    """What a reader must know to judge the figures."""
    return {
        "data": f"{dataset.name}, {dataset.counts['train']} training and {dataset.counts['test']} test leaves",
        "fingerprint": dataset.fingerprint[:16],
        "initial weights": study.train.init,
        "sampler": settings.sampler,
        "early stopping": f"ASHA, from epoch {settings.grace_epochs}, 1 of {settings.reduction:g}"
        if settings.early_stopping
        else "none",
        "backbone": str(study.options.get("backbone", study.method)),
    }


def _told(axis: Dimension) -> Any:
    if axis.kind == "simplex":
        return "simplex"
    return (
        list(axis.choices) if axis.kind == "choice" else {"low": axis.low, "high": axis.high, "log": axis.kind == "log"}
    )

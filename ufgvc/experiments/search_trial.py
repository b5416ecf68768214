"""The trials of a search: all of them on Ray Tune, and what the process of one does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Literal

import torch

from ufgvc.core.storage import open_store
from ufgvc.evaluation.search_record import TrialResult
from ufgvc.experiments.resources import TrialResources
from ufgvc.experiments.runner import InBackground, run
from ufgvc.experiments.search_store import RESULT, STOP, SearchStore, TrialConfig
from ufgvc.experiments.searcher import EPOCH, SCORE, CooperativeASHA, ResumableSearcher, TrialLog
from ufgvc.experiments.settings import SearchSettings
from ufgvc.experiments.trial_progress import TrialProgress
from ufgvc.training.folds import Diverged, Folds
from ufgvc.training.metrics_file import Row, read_metrics
from ufgvc.training.settings import WorkerConfig

log = logging.getLogger(__name__)

# Called with the epochs that all folds have finished and the accuracy after them; returns when ASHA has decided.
Report = Callable[[int, float], None]


def run_trials(
    store: SearchStore,
    settings: SearchSettings,
    epochs: int,
    resources: TrialResources,
    on_result: Callable[[TrialConfig, TrialResult], None],
) -> list[TrialResult]:
    """Runs the trials that have not ended yet, and returns the results of all. Inside a Ray session.

    epochs: of a complete trial.  on_result: called on a thread with every trial that ends, also with those of an
    earlier start: a start may have been killed before its call.
    """
    store.clear_failures()
    trials = TrialLog.load(store)
    searcher = ResumableSearcher(store, settings, trials)
    if trials.started:
        log.info("%d trials were finished before, %d are resumed", len(trials.finished), len(trials.unfinished))
    with InBackground(on_result) as record:
        for trial, result in trials.finished:
            _delete_checkpoints(store, trial)  # a kill may have come between its result and this
            record(trial, result)
        if searcher.remaining:
            known = [result for _, result in trials.finished]
            _run_remaining(store, settings, epochs, resources, searcher, known, record)
    return [result for _, result in TrialLog.load(store).finished]


def _run_remaining(
    store: SearchStore,
    settings: SearchSettings,
    epochs: int,
    resources: TrialResources,
    searcher: ResumableSearcher,
    known: Sequence[TrialResult],
    record: Callable[[TrialConfig, TrialResult], None],
) -> None:
    def execute(number: int) -> None:
        from ray import tune

        run_trial(
            store,
            store.load_config(number),
            lambda epoch, score: tune.report({EPOCH: epoch, SCORE: score}),
            torch.device(resources.device),
            resources.threads,
        )

    def on_end(number: int, error: str | None) -> str:
        trial = store.load_config(number)
        result = store.load_result(trial)  # it counts even if the process was lost afterwards
        if result is None:
            result = make_result(store, trial, "failed", error or "it ended without a result")
            store.save_result(result, final=False)
        record(trial, result)
        return f"{trial.name}: {describe_result(result, epochs)}"

    scheduler = None
    if settings.early_stopping:
        scheduler = CooperativeASHA(
            lambda number: store.trial(number).write_json(STOP, {"by": "ASHA"}),
            epochs,
            settings.grace_epochs,
            settings.reduction,
        )
        scheduler.replay(known)

    def share_done(number: int) -> float:
        ended = sum(len(read_metrics(store.fold(number, fold))) for fold in range(store.folds))
        return ended / (store.folds * epochs)

    run(
        (),
        execute,
        on_end,
        store.trial,
        resources,
        open_store(store.folder).child("tune"),
        settings.max_failures,
        progress=TrialProgress("trials", searcher.remaining, len(known), share_done),
        searcher=searcher,
        scheduler=scheduler,
        reuse_actors=store.train.workers == 1,
    )


def run_trial(store: SearchStore, trial: TrialConfig, report: Report, device: torch.device, threads: int) -> None:
    """Trains, or resumes, one trial until it is complete, stopped or diverged, and writes its result.

    Any other exception is raised, and leaves no result.
    """
    if store.trial(trial.number).exists(RESULT):
        return
    try:
        result = _train(store, trial, report, device, threads)
    except Diverged as error:
        result = make_result(store, trial, "failed", str(error))
    except Exception:
        _delete_checkpoints(store, trial)
        raise
    store.save_result(result)
    _delete_checkpoints(store, trial)


def _train(store: SearchStore, trial: TrialConfig, report: Report, device: torch.device, threads: int) -> TrialResult:
    state: Literal["complete", "stopped"] = "complete"
    with closing(_epochs(store, trial, device, threads)) as epochs:  # once closed, it has written all metrics
        for epoch, score in epochs:
            report(epoch, score)
            if store.trial(trial.number).exists(STOP):
                state = "stopped"
                break
    return make_result(store, trial, state)


def _epochs(
    store: SearchStore, trial: TrialConfig, device: torch.device, threads: int
) -> Generator[tuple[int, float], None, None]:
    """(epochs, accuracy) after every epoch of all folds."""
    configs = store.worker_configs(trial)
    if store.train.workers > 1:
        yield from _distributed_epochs(store, trial, configs)
        return
    folds = Folds.start([replace(config, cores=threads) for config in configs], 0, 1, 1, device)
    try:
        while folds.epochs < folds.total:
            folds.step()
            yield folds.epochs, accuracy_after([worker.history for worker in folds.workers], folds.epochs)
    finally:
        folds.flush_metrics()


def _distributed_epochs(
    store: SearchStore, trial: TrialConfig, configs: Sequence[WorkerConfig]
) -> Iterator[tuple[int, float]]:
    from ufgvc.experiments.distributed_trial import train_folds_distributed  # imports Ray Train

    seen = 0
    for histories in train_folds_distributed(configs, store.train, store.trial(trial.number)):
        finished = min(map(len, histories))
        yield from ((epoch, accuracy_after(histories, epoch)) for epoch in range(seen + 1, finished + 1))
        seen = finished


def _delete_checkpoints(store: SearchStore, trial: TrialConfig) -> None:
    """Weights are large, and trials are many."""
    for fold in range(store.folds):
        store.fold(trial.number, fold).child("checkpoints").delete_tree()


def accuracy_after(histories: Sequence[Sequence[Row]], epochs: int) -> float:
    """Cross-validated accuracy after so many epochs: correct over all folds / all held-out leaves, in [0, 1]."""
    rows = [history[epochs - 1] for history in histories]
    return sum(row["validation_correct"] for row in rows) / sum(row["validation_leaves"] for row in rows)


def loss_after(histories: Sequence[Sequence[Row]], epochs: int) -> float:
    """Mean cross-entropy of all held-out leaves after so many epochs, in nats."""
    rows = [history[epochs - 1] for history in histories]
    weighted = sum(row["validation_loss"] * row["validation_leaves"] for row in rows)
    return weighted / sum(row["validation_leaves"] for row in rows)


def make_result(
    store: SearchStore,
    trial: TrialConfig,
    state: Literal["complete", "stopped", "failed"],
    error: str | None = None,
) -> TrialResult:
    """The result of a trial from the metrics of its folds, up to the last epoch that all of them finished."""
    histories = [read_metrics(store.fold(trial.number, fold)) for fold in range(store.folds)]
    epochs = min(map(len, histories))
    return TrialResult(
        trial.number,
        trial.values,
        state,
        curve=tuple(accuracy_after(histories, epoch + 1) for epoch in range(epochs)),
        losses=tuple(loss_after(histories, epoch + 1) for epoch in range(epochs)),
        folds=tuple(history[epochs - 1]["validation_accuracy"] for history in histories) if epochs else (),
        seconds=sum(row["seconds"] for history in histories for row in history),
        error=error,
        repeat=trial.repeat > 0,
    )


def best_trial(results: Sequence[TrialResult]) -> TrialResult | None:
    """The complete trial with the highest accuracy, without repeats; of equals the lowest loss, then the first."""
    complete = [result for result in results if result.state == "complete" and not result.repeat]
    return max(complete, key=lambda each: (each.curve[-1], -each.losses[-1], -each.number)) if complete else None


def describe_result(result: TrialResult, epochs: int) -> str:
    """One line for the terminal.  epochs: of a complete trial."""
    if result.state == "failed":
        return f"failed: {result.error}"
    score = f"{100 * result.curve[-1]:.1f} % of the held-out leaves" if result.curve else "nothing was scored"
    return score if result.state == "complete" else f"{score}, stopped after {len(result.curve)} of {epochs} epochs"

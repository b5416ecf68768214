"""What the process of one trial does: its folds in step, a report after each epoch, and an end that is written down."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

import torch

from ufgvc.core.errors import user_error_in
from ufgvc.core.process import trim_memory
from ufgvc.core.storage import Store, open_store
from ufgvc.evaluation.search_record import TrialResult
from ufgvc.experiments.distributed_trial import STOP, folds_together
from ufgvc.experiments.search_store import RESULT, SearchStore, TrialConfig
from ufgvc.experiments.trial_runner import reason
from ufgvc.training.folds import Diverged, Folds
from ufgvc.training.settings import WorkerConfig
from ufgvc.training.progress import Row, read_metrics

# Takes the epochs that all folds have done and the accuracy so far; returns when whoever listens has decided.
Report = Callable[[int, float], None]


def run_trial(study: SearchStore, setting: TrialConfig, report: Report, device: torch.device, threads: int) -> None:
    """Trains, or goes on with, one trial until it is complete, told to stop, or fails; `study.row` finds its end later.

    Errors of the training are its end, not this process's: Ray Tune starts it again only when the process is lost.
    """
    store = study.trial(setting.number)
    if store.exists(RESULT):
        return
    plans: list[WorkerConfig] = []
    try:
        plans = study.plans(setting)
        for epoch, score in _epochs(study, plans, store, device, threads):
            report(epoch, score)
            if store.exists(STOP):
                study.end(row_of(setting, plans, "stopped"))
                break
        else:
            study.end(row_of(setting, plans, "complete"))
    except Diverged as error:
        study.end(row_of(setting, plans, "failed", str(error)))
    except Exception as error:
        if user_error_in(error) is None:
            store.write_text("traceback.txt", traceback.format_exc())
        study.end(row_of(setting, plans, "failed", reason(error)), final=False)
    for plan in plans:
        open_store(plan.run).child("checkpoints").delete_tree()  # weights are large, and trials are many
    trim_memory()
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the process is used again, and others share the GPU


def _epochs(
    study: SearchStore, plans: Sequence[WorkerConfig], store: Store, device: torch.device, threads: int
) -> Iterator[tuple[int, float]]:
    """(epochs done, accuracy) after every epoch of all folds."""
    if study.train.workers > 1:
        seen = 0
        for histories in folds_together(plans, study.train, store):
            done = min(map(len, histories))
            yield from ((epoch, score_at(histories, epoch)) for epoch in range(seen + 1, done + 1))
            seen = done
        return
    folds = Folds.start([replace(plan, cores=threads) for plan in plans], 0, 1, 1, device)
    while folds.epochs < folds.total:
        folds.step()
        yield folds.epochs, score_at([worker.history for worker in folds.workers], folds.epochs)


def score_at(histories: Sequence[Sequence[Row]], epochs: int) -> float:
    """Share of all held-out leaves that were named rightly after so many epochs, in [0, 1]."""
    rows = [history[epochs - 1] for history in histories]
    return sum(row["validation_correct"] for row in rows) / sum(row["validation_leaves"] for row in rows)


def loss_at(histories: Sequence[Sequence[Row]], epochs: int) -> float:
    """Mean cross-entropy of all held-out leaves after so many epochs."""
    rows = [history[epochs - 1] for history in histories]
    return sum(row["validation_loss"] * row["validation_leaves"] for row in rows) / sum(
        row["validation_leaves"] for row in rows
    )


def row_of(
    setting: TrialConfig,
    plans: Sequence[WorkerConfig],
    state: Literal["complete", "stopped", "failed"],
    error: str | None = None,
) -> TrialResult:
    """What the folds have written, up to the last epoch that all of them did."""
    histories = [read_metrics(open_store(plan.run)) for plan in plans]
    epochs = min((len(history) for history in histories), default=0)
    return TrialResult(
        setting.number,
        setting.values,
        state,
        curve=tuple(score_at(histories, epoch + 1) for epoch in range(epochs)),
        losses=tuple(loss_at(histories, epoch + 1) for epoch in range(epochs)),
        folds=tuple(history[epochs - 1]["validation_accuracy"] for history in histories) if epochs else (),
        seconds=sum(row["seconds"] for history in histories for row in history),
        error=error,
        repeat=setting.repeat > 0,
    )

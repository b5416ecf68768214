"""The runs of trials on MLflow, nested under the run of the whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ufgvc.evaluation.search_record import TrialResult
from ufgvc.experiments.trial_runner import Finished
from ufgvc.methods.recipe import Recipe
from ufgvc.tracking.context import Context
from ufgvc.tracking.journal import Journal
from ufgvc.tracking.runs import start_run

if TYPE_CHECKING:  # only a search needs Optuna, which a benchmark does without
    from ufgvc.experiments.search_store import SearchStore, TrialConfig


@dataclass(frozen=True)
class Recorder:
    """Called with a job that ended. One process records them all: many trials at once would wait for MLflow's database.

    The last figures become metrics; the epochs are attached as they are, because a metric for each would cost more than a small training.
    """

    context: Context
    experiment: str
    parent: str | None

    def __call__(self, end: Finished) -> None:
        job = end.job
        known = Journal(job.store.child("journal")).identity()
        if end.result is not None and known and known["status"] == "FINISHED":
            return
        tags = {"step": job.purpose, "contestant": job.contestant, "method": job.plan.method, "folder": job.store.uri}
        child = start_run(
            self.context, self.experiment, job.name, job.identity, tags, parent=self.parent, store=job.store
        )
        if end.result is None:
            child.set_tags({"error": end.error})
            child.finish("FAILED")
            return
        numbers = {name: float(value) for name, value in end.result.items() if not isinstance(value, str)}
        child.log_metrics(numbers, step=Recipe.model_validate(job.plan.recipe).epochs)
        child.log_text(job.store.read_text("metrics.jsonl"), "metrics.jsonl")
        child.finish("FINISHED")


@dataclass(frozen=True)
class SearchRecorder:
    """Called with a trial of a search that ended: a run for it, and one for each fold nested in that."""

    context: Context
    study: SearchStore
    experiment: str
    parent: str | None

    def __call__(self, setting: TrialConfig, row: TrialResult) -> None:
        store = self.study.trial(setting.number)
        status = "FAILED" if row.state == "failed" else "FINISHED"
        known = Journal(store.child("journal")).identity()
        if known and known["status"] == status:
            return
        tags = {
            "step": "trial",
            "method": self.study.method,
            "state": row.state,
            "folder": store.uri,
            "repeat": setting.repeat,
        }
        name = f"trial-{setting.number}"
        child = start_run(
            self.context, self.experiment, name, dict(setting.values), tags, parent=self.parent, store=store
        )
        for fold, accuracy in enumerate(row.folds):
            inner = store.child(f"fold-{fold}")
            grandchild = start_run(
                self.context,
                self.experiment,
                f"{name}-fold-{fold}",
                {"fold": fold},
                {"step": "fold", "folder": inner.uri},
                parent=child.id,
                store=inner,
            )
            grandchild.log_metrics({"validation_accuracy": accuracy}, step=len(row.curve))
            grandchild.log_text(inner.read_text("metrics.jsonl"), "metrics.jsonl")
            grandchild.finish("FINISHED")
        if row.curve:
            figures = {"validation_accuracy": row.curve[-1], "validation_loss": row.losses[-1], "seconds": row.seconds}
            child.log_metrics(figures | {"epochs": len(row.curve)}, step=len(row.curve))
        if row.error:
            child.set_tags({"error": row.error})
        child.finish(status)

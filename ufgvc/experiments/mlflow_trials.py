"""Records the trainings of a benchmark and the trials of a search on MLflow, as runs nested in the run of the whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ufgvc.core.storage import Store
from ufgvc.evaluation.search_record import TrialResult
from ufgvc.experiments.training_job import JobOutcome
from ufgvc.methods.recipe import Recipe
from ufgvc.tracking.context import Context
from ufgvc.tracking.journal import Journal
from ufgvc.tracking.runs import start_run

if TYPE_CHECKING:  # only a search needs Optuna
    from ufgvc.experiments.search_store import SearchStore, TrialConfig


@dataclass(frozen=True)
class JobRecorder:
    """Records a job that ended. One process records all: concurrent trials would wait for MLflow's database.

    The last figures become metrics. The epochs are attached as a file, because a metric for each would take longer than
    a small training.

    experiment: name on MLflow.  parent: id of the run of the whole.
    """

    context: Context
    experiment: str
    parent: str | None

    def __call__(self, outcome: JobOutcome) -> None:
        """Does nothing for a job whose finished run is recorded already."""
        job, result = outcome.job, outcome.result
        if result is not None and _status(job.store) == "FINISHED":
            return
        tags = {"step": job.purpose, "variant": job.variant, "method": job.config.method, "folder": job.store.uri}
        run = start_run(
            self.context, self.experiment, job.name, job.identity, tags, parent=self.parent, store=job.store
        )
        if result is None:
            run.set_tags({"error": outcome.error})
            run.finish("FAILED")
            return
        metrics = {name: float(value) for name, value in result.items() if not isinstance(value, str)}
        run.log_metrics(metrics, step=Recipe.model_validate(job.config.recipe).epochs)
        run.log_text(job.store.read_text("metrics.jsonl"), "metrics.jsonl")
        run.finish("FINISHED")


@dataclass(frozen=True)
class TrialRecorder:
    """Records a trial of a search that ended: a run of its own, and one for each fold nested in that.

    experiment: name on MLflow.  parent: id of the run of the search.
    """

    context: Context
    store: SearchStore
    experiment: str
    parent: str | None

    def __call__(self, trial: TrialConfig, result: TrialResult) -> None:
        """Does nothing for a trial that is recorded already."""
        folder = self.store.trial(trial.number)
        status = "FAILED" if result.state == "failed" else "FINISHED"
        if _status(folder) == status:
            return
        tags = {
            "step": "trial",
            "method": self.store.method,
            "state": result.state,
            "folder": folder.uri,
            "repeat": trial.repeat,
        }
        name = f"trial-{trial.number}"
        run = start_run(self.context, self.experiment, name, dict(trial.values), tags, parent=self.parent, store=folder)
        for fold, accuracy in enumerate(result.folds):
            inner = self.store.fold(trial.number, fold)
            params, fold_tags = {"fold": fold}, {"step": "fold", "folder": inner.uri}
            fold_name = f"{name}-fold-{fold}"
            nested = start_run(self.context, self.experiment, fold_name, params, fold_tags, parent=run.id, store=inner)
            nested.log_metrics({"validation_accuracy": accuracy}, step=len(result.curve))
            nested.log_text(inner.read_text("metrics.jsonl"), "metrics.jsonl")
            nested.finish("FINISHED")
        if result.curve:
            metrics = {"validation_accuracy": result.curve[-1], "validation_loss": result.losses[-1]}
            metrics |= {"seconds": result.seconds, "epochs": len(result.curve)}
            run.log_metrics(metrics, step=len(result.curve))
        if result.error:
            run.set_tags({"error": result.error})
        run.finish(status)


def _status(folder: Store) -> str | None:
    """The status of the run that was recorded for a folder; None if there is none."""
    known = Journal(folder.child("journal")).read_identity()
    return known["status"] if known else None

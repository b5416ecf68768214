"""The runs of trials on MLflow, nested under the run of the whole."""

from __future__ import annotations

from dataclasses import dataclass

from ufgvc.methods.recipe import Recipe
from ufgvc.search.trials import Finished
from ufgvc.track.journal import Journal
from ufgvc.track.runs import start_run
from ufgvc.track.settings import TrackingSettings


@dataclass(frozen=True)
class Recorder:
    """Called with a job that ended. One process records them all: many trials at once would wait for MLflow's database.

    The last figures become metrics; the epochs are attached as they are, because a metric for each would cost more than a small training.
    """

    tracking: TrackingSettings
    runs: str
    experiment: str
    parent: str | None

    def __call__(self, end: Finished) -> None:
        job = end.job
        known = Journal(job.store.child("journal")).identity()
        if end.result is not None and known and known["status"] == "FINISHED":
            return
        tags = {"step": job.purpose, "contestant": job.contestant, "method": job.plan.method, "folder": job.store.uri}
        child = start_run(self.tracking, self.runs, self.experiment, job.name, job.identity, tags, parent=self.parent, store=job.store)
        if end.result is None:
            child.set_tags({"error": end.error})
            child.finish("FAILED")
            return
        numbers = {name: float(value) for name, value in end.result.items() if not isinstance(value, str)}
        child.log_metrics(numbers, step=Recipe.model_validate(job.plan.recipe).epochs)
        child.log_text(job.store.read_text("metrics.jsonl"), "metrics.jsonl")
        child.finish("FINISHED")

"""Chooses a method for a data set by cross-validation inside its training leaves, within a budget of minutes.

The first candidate is always measured. Each further one is tried if the time of one of its epochs says that its folds
and a final training fit into what is left of the budget, and kept if it is better than the best so far beyond its
error: the 95 % interval of the paired difference on the same leaves (bootstrap over groups) lies above zero.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ufgvc.core.config import short_key
from ufgvc.core.errors import UserError
from ufgvc.core.storage import Store, open_store
from ufgvc.data.dataset import Dataset, open_dataset, read_index
from ufgvc.data.splits import HeldFold, count_groups
from ufgvc.evaluation.bootstrap import paired_group_bootstrap
from ufgvc.experiments.candidates import (
    CANDIDATES,
    Attempt,
    Candidate,
    Choice,
    Outcome,
    check_validation,
    train_settings,
)
from ufgvc.experiments.crossval import group_ids
from ufgvc.experiments.entries import decode_images
from ufgvc.experiments.mlflow_trials import JobRecorder
from ufgvc.experiments.resources import TrialResources, check_shared_storage, trial_resources
from ufgvc.experiments.settings import TrialSettings, gpus_to_wait_for
from ufgvc.experiments.training_job import JobOutcome, TrainingJob, read_all_scores, run_jobs
from ufgvc.methods import build
from ufgvc.methods.recipe import Recipe
from ufgvc.methods.weights import check_init
from ufgvc.regions.mask_results import check_masks
from ufgvc.runtime.session import ray_session
from ufgvc.tracking.context import Context
from ufgvc.tracking.runs import finish_run_on_exit, start_run
from ufgvc.training.regions import mask_fingerprint, use_regions
from ufgvc.training.run import make_worker_config
from ufgvc.training.settings import TrainSettings

log = logging.getLogger(__name__)
AUTO = "auto"
FOLDS = 3
CHOICE, SECONDS = "choice.json", "seconds.json"


def choose_method(
    data: str,
    budget: float,
    settings: TrainSettings,
    context: Context = Context(),
    candidates: Sequence[Candidate] | None = None,
) -> Choice:
    """Tries the candidates and returns the best; the test leaves are never read. The same call resumes, and a finished
    choice is returned.

    candidates: in the order in which they are tried; None: CANDIDATES.
    budget: minutes, final training included; the first candidate is measured however long it takes.
    UserError if no candidate could be measured, and for a validation other than `last`.
    """
    check_validation(settings)
    dataset = open_dataset(data)
    folds = count_folds(dataset)
    candidates = CANDIDATES if candidates is None else candidates
    key = short_key(
        [dataset.fingerprint, context.seed, settings.result_affecting(), [asdict(each) for each in candidates]]
    )
    folder = open_store(context.runs).child(dataset.name, AUTO, key)
    if context.fresh:
        folder.delete_tree()
    elif (found := _read_choice(folder)) is not None and found.budget == budget:
        return found
    parameters = {"budget": budget, "train": settings.model_dump(mode="json")}
    tags = {"step": AUTO, "data": dataset.fingerprint, "folder": folder.uri}
    run = start_run(context, dataset.name, f"auto-{key}", parameters, tags, store=folder)
    with finish_run_on_exit(run), ray_session(context.ray, gpus_to_wait_for(settings.device, None, 1.0)):
        check_shared_storage([dataset.store.uri], context.runs, settings.init)
        trials = TrialSettings(init=settings.init, device=settings.device, precision=settings.precision)
        resources, recorder = trial_resources(trials), JobRecorder(context, dataset.name, run.id)

        def execute(jobs: list[TrainingJob]) -> list[JobOutcome]:
            decode_images(jobs, [dataset])
            return run_jobs(jobs, resources, folder.child("tune"), settings.max_failures, recorder)

        choice = _Comparison(dataset, folds, settings, context, folder, resources, execute).choose(candidates, budget)
        run.log_text(choice.summary(), "choice.txt")
    folder.write_json(CHOICE, asdict(choice))
    return choice


def count_folds(dataset: Dataset) -> int:
    """FOLDS, or fewer if no cultivar has so many training leaves (or groups of them). UserError if none has two."""
    index = read_index(dataset, "train")
    labels = index["label"].to_numpy().astype(np.int64)
    most = int(count_groups(labels, index["group"].to_pylist(), len(dataset.classes)).max())
    if most < 2:
        what = "no cultivar has two training leaves (or groups of leaves), so methods cannot be compared"
        raise UserError(what, where=dataset.store.uri, fix="name a --method, or ingest more photographs")
    return min(FOLDS, most)


def fits(spent: float, folds: float, final: float, budget: float) -> bool:
    """Whether folds and a final training of so many seconds fit into what is left of a budget in minutes."""
    return spent + folds + final <= 60 * budget


def _read_choice(folder: Store) -> Choice | None:
    if not folder.exists(CHOICE):
        return None
    found = folder.read_json(CHOICE)
    attempts = tuple(Attempt(**attempt) for attempt in found["attempts"])
    return Choice(Candidate(**found["candidate"]), attempts, found["budget"])


@dataclass(frozen=True)
class _Scores:
    """A measured candidate.  right: (N,) of the leaves that are in a fold.  final: seconds of its final training."""

    candidate: Candidate
    right: NDArray[np.bool_]
    final: float


@dataclass(frozen=True)
class _Comparison:
    """Tries candidates one after another."""

    dataset: Dataset
    folds: int
    settings: TrainSettings
    context: Context
    folder: Store
    resources: TrialResources
    execute: Callable[[list[TrainingJob]], list[JobOutcome]]

    def choose(self, candidates: Sequence[Candidate], budget: float) -> Choice:
        attempts: list[Attempt] = []
        best: _Scores | None = None
        # Seconds that each candidate took in an earlier start count too, and make a resumed choice the same.
        seconds: dict[str, float] = self.folder.read_json(SECONDS) if self.folder.exists(SECONDS) else {}
        for candidate in candidates:
            started = time.monotonic()
            spent = sum(seconds.get(attempt.label, 0.0) for attempt in attempts)
            attempt, scores = self._try(candidate, best, spent, budget)
            seconds[candidate.label] = max(seconds.get(candidate.label, 0.0), time.monotonic() - started)
            self.folder.write_json(SECONDS, seconds)
            attempt = replace(attempt, seconds=seconds.get(candidate.label, 0.0))
            log.info("%s", attempt.summary())
            attempts.append(attempt)
            if attempt.outcome in ("first", "better"):
                best = scores
        if best is None:
            reasons = "; ".join(attempt.summary() for attempt in attempts)
            raise UserError(f"no method could be measured: {reasons}", where="--method auto", fix="name a --method")
        return Choice(best.candidate, tuple(attempts), budget)

    def _try(
        self, candidate: Candidate, best: _Scores | None, spent: float, budget: float
    ) -> tuple[Attempt, _Scores | None]:
        try:
            timing, jobs = self._jobs(candidate)
        except UserError as error:
            return Attempt(candidate.label, "unsuitable", reason=f"{error.where or ''} {error.what}".strip()), None
        if best is not None:
            (timed,) = self.execute([timing])
            if timed.result is None:
                return Attempt(candidate.label, "failed", reason=timed.error or ""), None
            fold = timed.result["seconds"] * _epochs(jobs[0]) / _epochs(timing)
            folds = fold * math.ceil(len(jobs) / self.resources.max_concurrent)
            final = max(best.final, self._final_seconds(fold))
            if not fits(spent, folds, final, budget):
                reason = f"its folds and the final training need about {(folds + final) / 60:.1f} minutes"
                return Attempt(
                    candidate.label, "too slow", reason=f"{reason}, {budget - spent / 60:.1f} are left"
                ), None
        outcomes = self.execute(jobs)
        lost = next((outcome.error for outcome in outcomes if outcome.result is None), None)
        if lost is not None:
            return Attempt(candidate.label, "failed", reason=lost), None
        return self._compare(candidate, outcomes, best)

    def _compare(
        self, candidate: Candidate, outcomes: Sequence[JobOutcome], best: _Scores | None
    ) -> tuple[Attempt, _Scores]:
        index = read_index(self.dataset, "train")
        image_ids, labels = index["image_id"].to_pylist(), index["label"].to_numpy().astype(np.int64)
        named: dict[str, int] = {}
        for each in outcomes:
            held, logits = read_all_scores(each.job.store)
            named |= dict(zip(held, logits.argmax(1).tolist(), strict=True))
        rows = [row for row, image in enumerate(image_ids) if image in named]
        right = np.array([named[image_ids[row]] == labels[row] for row in rows])
        mean = float(np.mean([each.result["seconds"] for each in outcomes if each.result]))
        scores = _Scores(candidate, right, self._final_seconds(mean))
        counts = int(right.sum()), len(rows)
        if best is None:
            return Attempt(candidate.label, "first", 0.0, *counts), scores
        groups = group_ids(index)
        ids = np.arange(len(labels)) if groups is None else groups
        gap = paired_group_bootstrap(right.astype(float), best.right.astype(float), ids[rows])
        outcome: Outcome = "better" if gap.low > 0 else "not better"
        attempt = Attempt(candidate.label, outcome, 0.0, *counts, gap.value, gap.low, gap.high)
        return attempt, scores

    def _final_seconds(self, fold: float) -> float:
        """Of the training on all leaves, from the seconds of one fold."""
        return fold * self.folds / (self.folds - 1)

    def _jobs(self, candidate: Candidate) -> tuple[TrainingJob, list[TrainingJob]]:
        """(a training that is timed, all folds). UserError if the candidate does not suit the data set.

        Timed is the first fold, with one epoch a stage if it has epochs.
        """
        dataset, settings = self.dataset, train_settings(candidate, self.settings)
        options = use_regions(candidate.method, candidate.options, dataset.regions)
        method = build(candidate.method, len(dataset.classes), init="none", **options)
        check_init(settings.init, method.options.get("backbone"))
        if method.regions:
            check_masks(dataset, settings.mask_kind)
        masks = mask_fingerprint(dataset, method, settings.mask_kind)
        shared = {"workers": 1, "cache": "none" if settings.cache == "none" else "host"}

        def make(fold: int, **changes: Any) -> TrainingJob:
            train = settings.model_copy(update=shared | changes)
            held = HeldFold(self.folds, fold, self.context.seed, "train")
            place = self.context.seed, masks, self.context.runs, held
            config, identity = make_worker_config(dataset, method, train, *place)
            return TrainingJob(candidate.label, 0, self.context.seed, 1.0, "final", config, identity)

        timed = {} if method.recipe.classifier_fit else {"epochs": len(method.recipe.stages)}
        return make(0, **timed), [make(fold) for fold in range(self.folds)]


def _epochs(job: TrainingJob) -> int:
    return Recipe.model_validate(job.config.recipe).epochs

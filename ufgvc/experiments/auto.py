"""Chooses a method for a data set by cross-validation inside its training leaves, within a budget of minutes.

The first candidate is always measured. Each further one is tried if the time of one of its epochs says that its folds
and a final training fit into what is left of the budget, and kept if it is better than the best so far beyond its
error: the 95 % interval of the paired difference (bootstrap over cultivars and groups of leaves) lies above zero.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ufgvc.core.config import flatten, short_key
from ufgvc.core.errors import UserError
from ufgvc.core.storage import Store, open_store
from ufgvc.data.dataset import Dataset, open_dataset, read_index, read_manifest
from ufgvc.data.splits import HeldFold
from ufgvc.evaluation.stats import paired_bootstrap
from ufgvc.experiments.crossval import group_ids
from ufgvc.experiments.entries import decode_images
from ufgvc.experiments.mlflow_trials import JobRecorder
from ufgvc.experiments.resources import TrialResources, check_shared_storage, trial_resources
from ufgvc.experiments.settings import TrialSettings, gpus_to_wait_for
from ufgvc.experiments.training_job import JobOutcome, TrainingJob, read_all_scores, run_jobs
from ufgvc.methods import build, names
from ufgvc.methods.recipe import Recipe
from ufgvc.regions.mask_results import check_masks
from ufgvc.runtime.session import ray_session
from ufgvc.tracking.context import Context
from ufgvc.tracking.runs import finish_run_on_exit, start_run
from ufgvc.training.run import make_worker_config
from ufgvc.training.settings import TrainSettings

log = logging.getLogger(__name__)
AUTO = "auto"
FOLDS = 3
CHOICE, SECONDS = "choice.json", "seconds.json"


@dataclass(frozen=True)
class Candidate:
    """A method that may be tried.  train: settings of `TrainSettings` where the user gave none."""

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The candidate in messages."""
        options = ", ".join(f"{name} {value}" for name, value in flatten(self.options).items())
        return f"{self.method} ({options})" if options else self.method


# The order in which they are tried: the cheapest first. Those that are not registered are left out.
CANDIDATES = (
    Candidate("linear_probe"),
    Candidate("part_probe"),
    Candidate("resnet50"),
    Candidate("leaf_traits"),
    Candidate("mask_guided"),
)


@dataclass(frozen=True)
class Attempt:
    """What became of a candidate.

    outcome: first, the first one that could be measured; better or not better than the best before it; too slow for
    what was left of the budget; failed; unsuitable for this data set.
    correct, leaves: of the training leaves, each scored out of fold.  low, high: 95 % interval of the difference to the
    best before it, in [-1, 1].  seconds: that it took.  reason: of what was not measured.
    """

    label: str
    outcome: Literal["first", "better", "not better", "too slow", "failed", "unsuitable"]
    seconds: float = 0.0
    correct: int | None = None
    leaves: int | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""

    def summary(self) -> str:
        """One line for the terminal."""
        if self.correct is None:
            return f"{self.label}: {self.outcome}: {self.reason}"
        text = f"{self.label}: {self.correct} of {self.leaves} training leaves out of fold ({self.seconds:.0f} s)"
        if self.difference is None or self.low is None or self.high is None:
            return text
        gap, low, high = (100 * value for value in (self.difference, self.low, self.high))
        return f"{text}; {gap:+.1f} points ({low:+.1f} to {high:+.1f}), {self.outcome} beyond its error"


@dataclass(frozen=True)
class Choice:
    """The method that `choose_method` chose, with what it tried.  budget: minutes."""

    candidate: Candidate
    attempts: tuple[Attempt, ...]
    budget: float

    def summary(self) -> str:
        """The lines for the terminal."""
        slow = sum(attempt.outcome == "too slow" for attempt in self.attempts)
        stopped = f"{slow} would not fit into {self.budget:g} minutes" if slow else "all candidates were considered"
        lines = [attempt.summary() for attempt in self.attempts]
        return "\n".join([*lines, f"chosen: {self.candidate.label}; stopped because {stopped}"])


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
    if settings.validation != "last":
        what = f"the method is chosen by cross-validation of its own, not with validation {settings.validation}"
        raise UserError(what, where="--method auto", fix="use `--train.validation last`, or name a method")
    dataset = open_dataset(data)
    known = [each for each in (CANDIDATES if candidates is None else candidates) if each.method in names()]
    key = short_key([dataset.fingerprint, context.seed, settings.result_affecting(), [asdict(each) for each in known]])
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

        choice = _Comparison(dataset, settings, context, folder, resources, execute).choose(known, budget)
        run.log_text(choice.summary(), "choice.txt")
    folder.write_json(CHOICE, asdict(choice))
    return choice


def train_settings(candidate: Candidate, settings: TrainSettings) -> TrainSettings:
    """The settings of a training of the candidate: the user's, then its own."""
    own = {name: value for name, value in candidate.train.items() if name not in settings.model_fields_set}
    return settings.model_copy(update=own)


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
            if attempt.outcome in ("first", "better", "not better"):
                seconds.setdefault(candidate.label, time.monotonic() - started)
                self.folder.write_json(SECONDS, seconds)
            attempt = Attempt(**{**asdict(attempt), "seconds": seconds.get(candidate.label, 0.0)})
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
            return Attempt(candidate.label, "unsuitable", reason=error.what), None
        if best is not None:
            (timed,) = self.execute([timing])
            if timed.result is None:
                return Attempt(candidate.label, "failed", reason=timed.error or ""), None
            fold = timed.result["seconds"] * _epochs(jobs[0]) / _epochs(timing)
            folds = fold * math.ceil(len(jobs) / self.resources.max_concurrent)
            final = max(best.final, _final_seconds(fold))
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
        for outcome in outcomes:
            held, logits = read_all_scores(outcome.job.store)
            named |= dict(zip(held, logits.argmax(1).tolist(), strict=True))
        rows = [row for row, image in enumerate(image_ids) if image in named]
        right = np.array([named[image_ids[row]] == labels[row] for row in rows])
        mean = float(np.mean([outcome.result["seconds"] for outcome in outcomes if outcome.result]))
        scores = _Scores(candidate, right, _final_seconds(mean))
        counts = {"correct": int(right.sum()), "leaves": len(rows)}
        if best is None:
            return Attempt(candidate.label, "first", **counts), scores
        groups = group_ids(index)
        ids = None if groups is None else groups[rows]
        gap = paired_bootstrap(right.astype(float), best.right.astype(float), labels[rows], groups=ids)
        outcome_word: Literal["better", "not better"] = "better" if gap.low > 0 else "not better"
        figures = {"difference": gap.value, "low": gap.low, "high": gap.high}
        return Attempt(candidate.label, outcome_word, **counts, **figures), scores

    def _jobs(self, candidate: Candidate) -> tuple[TrainingJob, list[TrainingJob]]:
        """(the first fold with one epoch a stage, all folds). UserError if the candidate does not suit the data set."""
        dataset, settings = self.dataset, train_settings(candidate, self.settings)
        method = build(candidate.method, len(dataset.classes), init="none", **candidate.options)
        masks = None
        if method.regions:
            check_masks(dataset, settings.mask_kind)
            masks = read_manifest(dataset, f"masks/{settings.mask_kind}").fingerprint
        shared = {"workers": 1, "cache": "none" if settings.cache == "none" else "host"}

        def make(fold: int, **changes: Any) -> TrainingJob:
            train = settings.model_copy(update=shared | changes)
            held = HeldFold(FOLDS, fold, self.context.seed, "train")
            place = self.context.seed, masks, self.context.runs, held
            config, identity = make_worker_config(dataset, method, train, *place)
            return TrainingJob(candidate.label, 0, self.context.seed, 1.0, "final", config, identity)

        return make(0, epochs=len(method.recipe.stages)), [make(fold) for fold in range(FOLDS)]


def _epochs(job: TrainingJob) -> int:
    return Recipe.model_validate(job.config.recipe).epochs


def _final_seconds(fold: float) -> float:
    """The training on all leaves, from the seconds of one fold."""
    return fold * FOLDS / (FOLDS - 1)

"""What a search came to: the two settings' figures, the gain on the test leaves, its luck, and what early stopping saved."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ufgvc.evaluation.search_record import FinalRow, SearchRecord, TrialResult
from ufgvc.evaluation.selection_bias import SelectionBias, selection_bias
from ufgvc.evaluation.stats import RESAMPLES, Difference, Estimate, Floats, accuracy_interval, paired_bootstrap

ENOUGH = 10  # complete trials, before anything is said of what the good ones share


@dataclass(frozen=True)
class Tested:
    """A setting on the test leaves: accuracy of the mean over seeds with its interval; spread: standard deviation over the seeds."""

    accuracy: Estimate
    right: float
    leaves: int
    seeds: int
    spread: float | None


@dataclass(frozen=True)
class Saved:
    """Epochs and seconds that the trials took, and would have taken if none had been stopped. Failed trials are left out."""

    epochs: int
    all_epochs: int
    seconds: float
    all_seconds: float


@dataclass(frozen=True)
class SearchResult:
    """paper, best: the trials; None if they did not complete.  gain: best less paper on the test leaves, None if not both were tested."""

    paper: TrialResult | None
    best: TrialResult | None
    paper_tested: Tested | None
    best_tested: Tested | None
    gain: Difference | None
    selection_bias: SelectionBias | None
    saved: Saved

    @property
    def kept(self) -> bool:
        """Whether the paper's setting scored highest itself."""
        return self.best is not None and (self.best.number == 0 or self.best.repeat)


def measure(story: SearchRecord, resamples: int = RESAMPLES) -> SearchResult:
    """All figures of the page. ValueError if a final training speaks of other leaves than story.labels."""
    best = next((trial for trial in story.trials if trial.number == story.best), None)
    paper = next((trial for trial in story.trials if trial.number == 0 and trial.score is not None), None)
    before, after = _finals(story, best)
    gain = None
    if before and after:
        gain = paired_bootstrap(_seed_mean(after), _seed_mean(before), story.labels, resamples)
    return SearchResult(
        paper=paper,
        best=best,
        paper_tested=_tested(before, story, resamples) if before else None,
        best_tested=_tested(after, story, resamples) if after else None,
        gain=gain,
        selection_bias=selection_bias(story),
        saved=_saved(story),
    )


def _finals(story: SearchRecord, best: TrialResult | None) -> tuple[FinalRow | None, FinalRow | None]:
    """The paper's and the best one's. One alone is the paper's, unless the trainings of that were lost."""
    if len(story.finals) == 1:
        (only,) = story.finals
        return (None, only) if best and best.number and only.values == best.values else (only, None)
    return (story.finals[0], story.finals[1]) if story.finals else (None, None)


def _seed_mean(final: FinalRow) -> Floats:
    return final.right.mean(axis=0, dtype=np.float64)


def ranked(story: SearchRecord) -> list[TrialResult]:
    """Trials that could win, best first; then the repeats of the paper's setting, the stopped (last epoch's accuracy), the failed."""
    places = {"complete": 0, "stopped": 2, "failed": 3}

    def order(trial: TrialResult) -> tuple[int, float, bool, int]:
        place = 1 if trial.repeat and trial.state == "complete" else places[trial.state]
        # Of equal scores the one that the search chose stands first.
        return place, -(trial.curve[-1] if trial.curve else 0.0), trial.number != story.best, trial.number

    return sorted(story.trials, key=order)


def leading(story: SearchRecord) -> list[TrialResult]:
    """The fifth of the contenders that scored highest, three at least; empty if there are too few contenders to say what they share."""
    entered = [trial for trial in ranked(story) if trial.score is not None and not trial.repeat]
    return entered[: max(3, math.ceil(len(entered) / 5))] if len(entered) >= ENOUGH else []


def _tested(final: FinalRow, story: SearchRecord, resamples: int) -> Tested:
    mean, seeds = _seed_mean(final), len(final.right)
    spread = float(np.std(final.right.mean(axis=1), ddof=1)) if seeds > 1 else None
    return Tested(
        accuracy_interval(mean, story.labels, resamples), round(float(mean.sum()), 9), len(mean), seeds, spread
    )


def _saved(story: SearchRecord) -> Saved:
    """A stopped trial would have gone on at its own pace."""
    ran = [trial for trial in story.trials if trial.state != "failed" and trial.curve]
    return Saved(
        epochs=sum(len(trial.curve) for trial in ran),
        all_epochs=story.epochs * len(ran),
        seconds=sum(trial.seconds for trial in ran),
        all_seconds=sum(trial.seconds * story.epochs / len(trial.curve) for trial in ran),
    )

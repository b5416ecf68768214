"""Statistics of a search: the gain on the test leaves, its selection bias, and what early stopping saved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ufgvc.evaluation.bootstrap import RESAMPLES, Difference, Estimate, Floats, accuracy_interval, paired_bootstrap
from ufgvc.evaluation.search_record import FinalResult, SearchRecord, TrialResult
from ufgvc.evaluation.selection_bias import SelectionBias, selection_bias


@dataclass(frozen=True)
class FinalScore:
    """Test accuracy of a setting, averaged over the seeds.  right: mean number of correct leaves of `leaves`.

    spread: standard deviation of the accuracy over the seeds; None with one seed.
    """

    accuracy: Estimate
    right: float
    leaves: int
    seeds: int
    spread: float | None


@dataclass(frozen=True)
class Savings:
    """Epochs and seconds that the trials took, and would have taken without early stopping (failed trials excluded)."""

    epochs: int
    all_epochs: int
    seconds: float
    all_seconds: float


@dataclass(frozen=True)
class SearchSummary:
    """best: the selected trial; None if none completed.  paper_test, best_test: None where a setting was not tested.

    gain: test accuracy of the best minus that of the paper's setting; None unless both were tested.
    """

    best: TrialResult | None
    paper_test: FinalScore | None
    best_test: FinalScore | None
    gain: Difference | None
    selection_bias: SelectionBias | None
    savings: Savings

    @property
    def paper_is_best(self) -> bool:
        """Whether the paper's own setting scored highest."""
        return self.best is not None and (self.best.number == 0 or self.best.repeat)


def summarize(record: SearchRecord, resamples: int = RESAMPLES) -> SearchSummary:
    """All statistics of the report. ValueError if a final result has another number of leaves than record.labels."""
    best = next((trial for trial in record.trials if trial.number == record.best), None)
    paper_final, best_final = _finals(record, best)
    gain = None
    if paper_final and best_final:
        gain = paired_bootstrap(_seed_mean(best_final), _seed_mean(paper_final), record.labels, resamples)
    return SearchSummary(
        best=best,
        paper_test=_final_score(paper_final, record, resamples) if paper_final else None,
        best_test=_final_score(best_final, record, resamples) if best_final else None,
        gain=gain,
        selection_bias=selection_bias(record),
        savings=_savings(record),
    )


def _finals(record: SearchRecord, best: TrialResult | None) -> tuple[FinalResult | None, FinalResult | None]:
    """(paper's, best). A single result is the paper's unless it has the values of another best trial."""
    if len(record.finals) == 1:
        (only,) = record.finals
        return (None, only) if best and best.number and only.values == best.values else (only, None)
    return (record.finals[0], record.finals[1]) if record.finals else (None, None)


def _seed_mean(final: FinalResult) -> Floats:
    return final.right.mean(axis=0, dtype=np.float64)


def _final_score(final: FinalResult, record: SearchRecord, resamples: int) -> FinalScore:
    mean, seeds = _seed_mean(final), len(final.right)
    accuracy = accuracy_interval(mean, record.labels, resamples)
    spread = float(np.std(final.right.mean(axis=1), ddof=1)) if seeds > 1 else None
    return FinalScore(accuracy, round(float(mean.sum()), 9), len(mean), seeds, spread)


def _savings(record: SearchRecord) -> Savings:
    """A stopped trial is extrapolated at its own speed."""
    ran = [trial for trial in record.trials if trial.state != "failed" and trial.curve]
    return Savings(
        epochs=sum(len(trial.curve) for trial in ran),
        all_epochs=record.epochs * len(ran),
        seconds=sum(trial.seconds for trial in ran),
        all_seconds=sum(trial.seconds * record.epochs / len(trial.curve) for trial in ran),
    )

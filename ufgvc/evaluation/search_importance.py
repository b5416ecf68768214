"""Which of the searched fields tells the best trials from the rest, beside what shuffled scores would say."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ufgvc.evaluation.search_record import SearchRecord, TrialResult
from ufgvc.evaluation.search_result import ENOUGH
from ufgvc.evaluation.selection_bias import contenders
from ufgvc.reports.search_fields import Field, free_fields

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study

SHUFFLES = 100
TOP = 10  # trials at least among the best: with fewer, a density through them tells little (tried with 20 trials and one strong field)


@dataclass(frozen=True)
class Importance:
    """ratios: {label: importance as a multiple of chance}, largest first; chance is what the largest of all fields stays below in 95
    of 100 shuffles of the scores among the trials.  top: how many trials count as the best.
    """

    ratios: dict[str, float]
    top: int

    @property
    def beyond_chance(self) -> list[str]:
        return [label for label, ratio in self.ratios.items() if ratio > 1]


def importance(story: SearchRecord, shuffles: int = SHUFFLES, seed: int = 0) -> Importance | None:
    """PED-ANOVA (Watanabe and others, 2023) over the complete trials; None if they are too few or scored alike."""
    trials, fields = contenders(story), free_fields(story)
    scores = np.array([trial.curve[-1] for trial in trials])
    if len(trials) < ENOUGH or not fields or np.ptp(scores) == 0:
        return None
    share = min(0.5, max(0.2, TOP / len(trials)))
    study, random = _study(trials, fields), np.random.default_rng(seed)
    measured = _divergences(study, scores, share)
    chance = float(
        np.quantile(
            [max(_divergences(study, random.permutation(scores), share).values()) for _ in range(shuffles)], 0.95
        )
    )
    if chance <= 0:
        return None
    labels = {field.name: field.label for field in fields}
    cut = np.sort(scores)[::-1][math.ceil(share * len(trials)) - 1]
    ordered = sorted(measured.items(), key=lambda item: -item[1])
    return Importance({labels[name]: value / chance for name, value in ordered}, int((scores >= cut).sum()))


def _divergences(study: Study, scores: np.ndarray, share: float) -> dict[str, float]:
    """{name: how far the best trials' density of a field lies from that of all trials}, scores[i] being that of the i-th trial."""
    from optuna.importance import PedAnovaImportanceEvaluator

    with warnings.catch_warnings():
        # It says each time that low values count as good, and that shuffles which tie tell nothing.
        warnings.simplefilter("ignore")
        evaluator = PedAnovaImportanceEvaluator(target_quantile=share)
        return evaluator.evaluate(study, target=lambda trial: -float(scores[trial.number]))


def _study(trials: list[TrialResult], fields: list[Field]) -> Study:
    import optuna

    distributions = {field.name: _distribution(field) for field in fields}
    with _quiet():
        study = optuna.create_study()
    for trial in trials:
        params = {field.name: _param(field, trial) for field in fields}
        study.add_trial(optuna.create_trial(params=params, distributions=distributions, value=0.0))
    return study


def _distribution(field: Field) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    # Numbers by their place on the axis: logarithms, and a paper's setting outside the ends, are in it already.
    return CategoricalDistribution(field.choices) if field.axis.kind == "choice" else FloatDistribution(0, 1)


def _param(field: Field, trial: TrialResult) -> str | float:
    return field.choice(trial.values) if field.axis.kind == "choice" else min(1.0, max(0.0, field.place(trial.values)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without optuna's line about a study that lives in memory only."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)

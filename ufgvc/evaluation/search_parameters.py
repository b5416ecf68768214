"""The scalar parameters of a search space, and which of them matter (PED-ANOVA)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ufgvc.evaluation.search_record import Dimension, SearchRecord, TrialResult

if TYPE_CHECKING:
    from optuna.study import Study

MIN_TRIALS = 10  # complete trials; with fewer, importance is not estimated
MIN_TOP = (
    10  # trials among the best at least: with fewer, their density is too rough (tried: 20 trials, 1 strong parameter)
)


@dataclass(frozen=True)
class Parameter:
    """A scalar parameter: a dimension of its own, or one weight (`part`) of a simplex.

    name: dotted key in the configuration.  label: short and unique.  low, high: its range, widened where a trial (the
    paper's setting) lies outside.  choices: as text.
    """

    dimension: Dimension
    part: str | None
    label: str = ""
    low: float = 0.0
    high: float = 1.0
    choices: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The dotted key, with the weight's name for a simplex."""
        return self.dimension.name if self.part is None else f"{self.dimension.name}.{self.part}"

    def value(self, values: Mapping[str, Any]) -> Any:
        """The value in TrialResult.values."""
        value = values[self.dimension.name]
        return value if self.part is None else value[self.part]

    def text(self, values: Mapping[str, Any]) -> str:
        """The value as text, numbers with three significant digits."""
        return value_text(self.value(values))

    def position(self, values: Mapping[str, Any]) -> float:
        """The value scaled to [0, 1], on a log scale for `log` dimensions; choices are equidistant."""
        if self.dimension.kind == "choice":
            last = len(self.choices) - 1
            return self.choices.index(self.text(values)) / last if last else 0.5
        scale = math.log if self.dimension.kind == "log" else float
        # A weight of 0 has no logarithm; it is drawn at the low end.
        low, high, value = scale(self.low), scale(self.high), scale(max(self.value(values), self.low))
        return (value - low) / (high - low) if high > low else 0.5

    def ticks(self) -> list[tuple[float, str]]:
        """(position, text) of both ends, or of every choice."""
        if self.dimension.kind == "choice":
            last = len(self.choices) - 1
            return [(i / last if last else 0.5, text) for i, text in enumerate(self.choices)]
        ends = [(0.0, value_text(self.low)), (1.0, value_text(self.high))]
        return ends if self.high > self.low else [(0.5, ends[0][1])]


def parameters(record: SearchRecord) -> list[Parameter]:
    """Every scalar parameter, in the order of the dimensions."""
    found = [
        _parameter(dimension, part, record)
        for dimension in record.dimensions
        for part in (dimension.parts if dimension.kind == "simplex" else (None,))
    ]
    labels = short_labels([one.name for one in found])
    return [replace(one, label=label) for one, label in zip(found, labels, strict=True)]


def free_parameters(record: SearchRecord) -> list[Parameter]:
    """Without the second of two weights, which the first determines."""
    found = parameters(record)
    return [one for one in found if len(one.dimension.parts) != 2 or one.part == one.dimension.parts[0]]


def short_labels(names: list[str]) -> list[str]:
    """The last two parts of each dotted name with spaces; all of them where two would be the same."""

    def label(name: str, parts: int) -> str:
        return " ".join(name.removeprefix("options.").split(".")[-parts:]).replace("_", " ")

    labels = [label(name, 2) for name in names]
    return [one if labels.count(one) == 1 else label(name, 99) for name, one in zip(names, labels, strict=True)]


def value_text(value: Any) -> str:
    """A value as in the configuration, numbers with three significant digits."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _parameter(dimension: Dimension, part: str | None, record: SearchRecord) -> Parameter:
    if dimension.kind == "simplex":
        return Parameter(dimension, part)
    tried = [trial.values[dimension.name] for trial in record.trials]
    if dimension.kind == "choice":
        choices = tuple(dict.fromkeys(map(value_text, [*dimension.choices, *tried])))
        return Parameter(dimension, part, choices=choices)
    numbers = [number for number in (dimension.low, dimension.high, *tried) if number is not None]
    positive = [number for number in numbers if dimension.kind != "log" or number > 0]
    return Parameter(dimension, part, low=min(positive), high=max(positive))


@dataclass(frozen=True)
class Importance:
    """ratios: {label: importance divided by the threshold}, largest first.  top: number of trials counted as the best.

    threshold: in 95 of 100 random permutations of the scores the largest importance of all parameters is below it.
    """

    ratios: dict[str, float]
    top: int

    @property
    def significant(self) -> list[str]:
        """Labels above the threshold."""
        return [label for label, ratio in self.ratios.items() if ratio > 1]


def importance(record: SearchRecord, permutations: int = 100, seed: int = 0) -> Importance | None:
    """PED-ANOVA (Watanabe et al., 2023) over the complete trials; None if they are too few or scored the same."""
    trials, free = record.candidates, free_parameters(record)
    scores = np.array([trial.curve[-1] for trial in trials])
    if len(trials) < MIN_TRIALS or not free or np.ptp(scores) == 0:
        return None
    share = min(0.5, max(0.2, MIN_TOP / len(trials)))
    study, rng = _study(trials, free), np.random.default_rng(seed)
    measured = _evaluate(study, scores, share)
    largest = [max(_evaluate(study, rng.permutation(scores), share).values()) for _ in range(permutations)]
    threshold = float(np.quantile(largest, 0.95))
    if threshold <= 0:
        return None
    labels = {one.name: one.label for one in free}
    cut = np.sort(scores)[::-1][math.ceil(share * len(trials)) - 1]
    ordered = sorted(measured.items(), key=lambda item: -item[1])
    return Importance({labels[name]: value / threshold for name, value in ordered}, int((scores >= cut).sum()))


def _evaluate(study: Study, scores: np.ndarray, share: float) -> dict[str, float]:
    """{name: importance}; scores[i] is the score of the i-th trial, `share` of which count as the best."""
    from optuna.importance import PedAnovaImportanceEvaluator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns each time that low values are good, and about tied scores
        evaluator = PedAnovaImportanceEvaluator(target_quantile=share)
        return evaluator.evaluate(study, target=lambda trial: -float(scores[trial.number]))


def _study(trials: list[TrialResult], free: list[Parameter]) -> Study:
    """An in-memory study with the values of the trials, numbers by their position in [0, 1]."""
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

    distributions: dict[str, BaseDistribution] = {
        one.name: CategoricalDistribution(one.choices) if one.dimension.kind == "choice" else FloatDistribution(0, 1)
        for one in free
    }
    with _quiet_optuna():
        study = optuna.create_study()
    for trial in trials:
        params = {
            one.name: one.text(trial.values)
            if one.dimension.kind == "choice"
            else min(1.0, max(0.0, one.position(trial.values)))
            for one in free
        }
        study.add_trial(optuna.create_trial(params=params, distributions=distributions, value=0.0))
    return study


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Hides optuna's message about a new in-memory study."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)

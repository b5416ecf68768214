"""The methods that `--method auto` may try, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ufgvc.core.config import flatten
from ufgvc.core.errors import UserError
from ufgvc.methods import build
from ufgvc.training.settings import TrainSettings

Outcome = Literal["first", "better", "not better", "too slow", "failed", "unsuitable"]


@dataclass(frozen=True)
class Candidate:
    """A method that may be tried.  train: values of `TrainSettings` where the user's are empty (None)."""

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The candidate in messages."""
        options = ", ".join(f"{name} {value}" for name, value in flatten(self.options).items())
        return f"{self.method} ({options})" if options else self.method


LITE0 = {"backbone": "efficientnet_lite0"}  # its ImageNet weights need no network
SMALL = {"epochs": 40, "batch_size": 8, "resize": 256, "crop": 224}  # minutes a training on a CPU
# In the order in which they are tried: the cheapest first.
CANDIDATES = (
    Candidate("linear_probe"),
    Candidate("part_probe"),
    Candidate("resnet50", LITE0, SMALL),
    Candidate("leaf_traits", LITE0, SMALL),
    Candidate("mask_guided", LITE0, SMALL),
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
    outcome: Outcome
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
        many = f"{slow} candidate{'s' if slow > 1 else ''}"
        stopped = f"{many} would not fit into {self.budget:g} minutes" if slow else "all candidates were considered"
        lines = [attempt.summary() for attempt in self.attempts]
        return "\n".join([*lines, f"chosen: {self.candidate.label}; stopped because {stopped}"])


def train_settings(candidate: Candidate, settings: TrainSettings) -> TrainSettings:
    """The settings of a training of the candidate: the user's, then its own.

    A classifier that is fitted has no epochs, learning rate or modern recipe, so the user's are for the other
    candidates; so is a fitted first layer where the method has none.
    """
    own = {name: value for name, value in candidate.train.items() if getattr(settings, name) is None}
    method = build(candidate.method, num_classes=2, **candidate.options)
    if not method.has_linear_head:
        own["head"] = "random"
    if method.recipe.classifier_fit:
        own |= {"epochs": None, "learning_rate": None, "recipe": "published", "early_stopping": None}
    return settings.model_copy(update=own)


def check_validation(settings: TrainSettings) -> None:
    """UserError for a validation other than `last`, which leaves all training leaves to the folds."""
    if settings.validation != "last":
        what = f"the method is chosen by cross-validation of its own, not with validation {settings.validation}"
        raise UserError(what, where="--method auto", fix="use `--train.validation last`, or name a --method")

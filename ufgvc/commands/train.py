"""`ufgvc train`: trains a classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from ufgvc.commands.fields import HasData, HasFresh, HasMaskKind, HasMethod, HasRay, HasSeed, WritesRuns
from ufgvc.commands.step import Step
from ufgvc.tracking.background import prepare_recording
from ufgvc.tracking.context import Context
from ufgvc.training.settings import TrainSettings

if TYPE_CHECKING:
    from ufgvc.training.run import TrainResult


class Train(HasRay, HasFresh, HasSeed, WritesRuns, HasMaskKind, HasMethod, HasData):
    """Settings of `ufgvc train`."""

    train: TrainSettings = TrainSettings()
    """training"""
    budget: float = Field(10.0, gt=0)
    """method auto: minutes for trying methods by cross-validation and for the final training"""


def run(settings: Train, context: Context) -> dict[str, Any]:
    """Trains a model and prints its last metrics. The result has one run, or one for each fold."""
    step = execute(settings, context)
    print(step.summary)
    return {"runs": step.result}


def execute(settings: Train, context: Context) -> Step[list[TrainResult]]:
    """Trains one model, or one for each fold; finds those that the same settings trained before."""
    if settings.method != "auto":  # which tries methods for minutes before
        prepare_recording(context)
    from ufgvc.training.run import train, train_folds

    chosen = settings.train.model_copy(update={"mask_kind": settings.mask_kind})
    if settings.method == "auto":
        return _train_best(settings, chosen, context)
    options = settings.options.model_dump(mode="json")
    if chosen.validation == "kfold" and chosen.fold is None:
        results = train_folds(settings.data, settings.method, options, chosen, context)
    else:
        results = [train(settings.data, settings.method, options, chosen, context)]
    return Step("\n".join(_describe(each) for each in results), results, all(each.found for each in results))


def _train_best(settings: Train, chosen: TrainSettings, context: Context) -> Step[list[TrainResult]]:
    """Chooses a method within the budget and trains it on all training leaves."""
    from ufgvc.experiments.auto import choose_method
    from ufgvc.experiments.candidates import train_settings
    from ufgvc.training.run import train

    choice = choose_method(settings.data, settings.budget, chosen, context)
    best = choice.candidate
    result = train(settings.data, best.method, best.options, train_settings(best, chosen), context)
    return Step(f"{choice.summary()}\n{_describe(result)}", [result], result.found)


def _describe(result: TrainResult) -> str:
    row = result.metrics
    text = f"train accuracy {100 * row['train_accuracy']:.1f} %"
    if "validation_accuracy" in row:
        share = f"{int(row['validation_correct'])} of {int(row['validation_leaves'])}"
        selected = "selected on test" if result.validation == "test" else f"best on {result.validation}"
        text += f", {selected}: {share} = {100 * row['validation_accuracy']:.1f} %"
    return f"{text}; model {result.model}"

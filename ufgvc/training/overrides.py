"""The published recipe with the user's changes."""

from __future__ import annotations

from pydantic import ValidationError

from ufgvc.core.config import describe_validation
from ufgvc.core.errors import UserError
from ufgvc.methods.recipe import Recipe, Stage
from ufgvc.training.settings import TrainSettings


def apply_overrides(recipe: Recipe, settings: TrainSettings) -> Recipe:
    """A shorter or longer run keeps the recipe's shape: stages, steps and milestones of the learning rate are scaled with the epochs.

    Another learning rate scales every stage by the same factor, so that the first one starts at it. A new crop without a new resize
    keeps their ratio. UserError for what does not fit together.
    """
    stages = recipe.stages
    if settings.epochs is not None:
        stages = rescale_schedule(stages, settings.epochs)
    if settings.learning_rate is not None:
        factor = settings.learning_rate / stages[0].lr
        stages = tuple(stage.model_copy(update={"lr": stage.lr * factor}) for stage in stages)
    crop = settings.crop or recipe.crop
    resize = settings.resize or (recipe.resize if crop == recipe.crop else round(crop * recipe.resize / recipe.crop))
    if crop > resize:
        what = f"a crop of {crop} px does not fit into a photograph resized to {resize} px"
        raise UserError(
            what, where="train.crop", fix=f"use `--train.resize {crop}` or more, or `--train.crop {resize}` or less"
        )
    changes = {"stages": stages, "crop": crop, "resize": resize, "batch_size": settings.batch_size or recipe.batch_size}
    try:
        return Recipe.model_validate(recipe.model_dump() | changes)
    except ValidationError as error:
        raise describe_validation(error, "train") from None


def rescale_schedule(stages: tuple[Stage, ...], epochs: int) -> tuple[Stage, ...]:
    """The stages over other epochs together, with their steps and milestones in proportion; each stage keeps one epoch at least."""
    factor = epochs / sum(stage.epochs for stage in stages)
    if epochs < len(stages):
        what = f"{epochs} epochs are too few for the {len(stages)} stages of the recipe"
        raise UserError(what, where="train.epochs", fix=f"use `--train.epochs {len(stages)}` or more")
    ends: list[int] = []
    for index in range(len(stages)):  # every stage keeps an epoch, and together they are as many as asked for
        end = round(factor * sum(stage.epochs for stage in stages[: index + 1]))
        ends.append(min(max(end, index + 1, ends[-1] + 1 if ends else 1), epochs - (len(stages) - 1 - index)))
    made = []
    for stage, start, end in zip(stages, [0, *ends[:-1]], ends, strict=True):
        changes = {
            "epochs": end - start,
            "step_epochs": max(1, round(stage.step_epochs * factor)),
            "milestones": tuple(max(1, round(at * factor)) for at in stage.milestones),
            "warmup_epochs": round(stage.warmup_epochs * factor),
        }
        made.append(stage.model_copy(update=changes))
    return tuple(made)

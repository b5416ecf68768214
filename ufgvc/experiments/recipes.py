"""How a contestant is trained: its own published recipe, or the one that is the same for all but for what makes the method."""

from __future__ import annotations

from ufgvc.core.errors import UserError
from ufgvc.experiments.settings import BenchmarkSettings
from ufgvc.methods.method import Method
from ufgvc.methods.recipe import Recipe, Stage
from ufgvc.training.settings import rescale_schedule


def recipe_for(method: Method, settings: BenchmarkSettings, factor: float = 1.0) -> Recipe:
    """factor: multiple of the published learning rate (equal budget only). UserError for a crop that the net does not take."""
    recipe = _equal(method, settings, factor) if settings.budget == "equal" else _published(method.recipe, settings)
    if recipe.crop < method.min_side:
        key = "--crop" if settings.budget == "equal" else "--shrink"
        fix = f"use at least {method.min_side} px, or leave {method.name} out of --methods"
        raise UserError(f"{method.name} does not take images of {recipe.crop} px", where=key, fix=fix)
    return recipe


def _equal(method: Method, settings: BenchmarkSettings, factor: float) -> Recipe:
    """Same sizes, views, batch, images forwarded and shape of the schedule.

    Stages (what is frozen), the ratio of the head's rate to the backbone's, momentum and weight decay belong to the method.
    """
    own = method.recipe.stages
    epochs = max(len(own), round(settings.epochs / method.images_forwarded))

    def alike(stage: Stage) -> Stage:
        return stage.model_copy(update={"lr": stage.lr * factor, "schedule": "cosine", "warmup_epochs": 0})

    return Recipe(
        stages=tuple(alike(stage) for stage in rescale_schedule(own, epochs)),
        batch_size=settings.batch_size,
        resize=settings.resize,
        crop=settings.crop,
        eval_view="resize",
    )


def _published(recipe: Recipe, settings: BenchmarkSettings) -> Recipe:
    epochs = max(len(recipe.stages), round(recipe.epochs / settings.shorten))
    sides = {"resize": round(recipe.resize / settings.shrink), "crop": round(recipe.crop / settings.shrink)}
    return Recipe.model_validate(recipe.model_dump() | sides | {"stages": rescale_schedule(recipe.stages, epochs)})

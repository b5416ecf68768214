"""`ufgvc evaluate`: scores a model on the test leaves and writes its report."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ufgvc.commands.fields import HasCompared, HasData, HasMaskKind, HasModel, HasRay, HasRuns, HasSeed
from ufgvc.commands.step import Step
from ufgvc.core.config import select_fields
from ufgvc.core.errors import UserError
from ufgvc.evaluation.settings import EvaluateSettings
from ufgvc.tracking.context import Context

if TYPE_CHECKING:
    from ufgvc.experiments.evaluate import EvaluateResult


class Evaluate(HasRay, HasSeed, HasRuns, HasMaskKind, HasCompared, HasModel, HasData, EvaluateSettings):
    """Settings of `ufgvc evaluate`."""


def run(settings: Evaluate, context: Context) -> EvaluateResult:
    """Evaluates a model and prints its scores."""
    step = execute(settings, context)
    print(step.summary)
    return step.result


def execute(settings: Evaluate, context: Context) -> Step[EvaluateResult]:
    """Scores the model and writes its report."""
    from ufgvc.experiments.evaluate import evaluate

    others = labelled_models(settings.compare)
    chosen = select_fields(EvaluateSettings, settings)
    result = evaluate(settings.data, settings.model, others, chosen, context)
    return Step(result.summary(), result)


def labelled_models(pairs: Iterable[str]) -> dict[str, str]:
    """{label: MODEL} of texts `label=MODEL`. UserError for a text of another form."""
    found = {}
    for pair in pairs:
        label, equals, model = pair.partition("=")
        if not (label and equals and model):
            fix = "e.g. --compare backbone=models:/ufgvc-cotton80/1"
            raise UserError(f"{pair!r} is not label=MODEL", where="--compare", fix=fix)
        found[label] = model
    return found

"""`ufgvc predict`: names the cultivar on new photographs."""

from __future__ import annotations

from ufgvc.commands.fields import HasModel, HasRay, HasRuns
from ufgvc.core.config import select_fields
from ufgvc.core.places import Place, WrittenPlace
from ufgvc.evaluation.settings import PredictResult, PredictSettings
from ufgvc.tracking.context import Context


class Predict(HasRay, HasRuns, HasModel, PredictSettings):
    """Settings of `ufgvc predict`."""

    source: Place
    """the photographs: a folder, a file or a URI"""
    out: WrittenPlace
    """where predictions are written: a folder or a URI"""


def run(settings: Predict, context: Context) -> PredictResult:
    """Predicts and prints where the predictions are."""
    from ufgvc.evaluation.predict import predict

    chosen = select_fields(PredictSettings, settings)
    result = predict(settings.source, settings.model, settings.out, chosen, context)
    print(result.summary())
    return result

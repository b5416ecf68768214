"""`ufgvc calibrate`: a model's probabilities, and the threshold above which a leaf is unknown."""

from __future__ import annotations

from ufgvc.commands.fields import HasData, HasModel, HasRay, HasRuns
from ufgvc.core.config import select_fields
from ufgvc.experiments.calibrate import CalibrateResult, CalibrateSettings, calibrate_model
from ufgvc.tracking.context import Context


class Calibrate(HasRay, HasRuns, HasModel, HasData, CalibrateSettings):
    """Settings of `ufgvc calibrate`."""


def run(settings: Calibrate, context: Context) -> CalibrateResult:
    """Calibrates a model and prints the result."""
    chosen = select_fields(CalibrateSettings, settings)
    result = calibrate_model(settings.data, settings.model, chosen, context)
    print(result.summary())
    return result

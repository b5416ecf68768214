"""`ufgvc predict`: names the cultivar on new photographs."""

from __future__ import annotations

import webbrowser
from pathlib import Path

from ufgvc.commands.fields import HasModel, HasRay, HasRuns
from ufgvc.core.config import select_fields
from ufgvc.core.errors import UserError
from ufgvc.core.places import Place, WrittenPlace
from ufgvc.core.storage import open_store
from ufgvc.evaluation.settings import PredictResult, PredictSettings
from ufgvc.tracking.context import Context


class Predict(HasRay, HasRuns, HasModel, PredictSettings):
    """Settings of `ufgvc predict`."""

    source: Place
    """the photographs: a folder, a file or a URI"""
    out: WrittenPlace
    """where predictions are written: a folder or a URI"""
    show: bool = False
    """open predictions.html in the browser"""


def run(settings: Predict, context: Context) -> PredictResult:
    """Predicts and prints where the predictions are."""
    from ufgvc.evaluation.predict import predict
    from ufgvc.reports.predictions_page import write_predictions_page

    if settings.show:
        check_show(settings)
    chosen = select_fields(PredictSettings, settings)
    result = predict(settings.source, settings.model, settings.out, chosen, context, write_predictions_page)
    print(result.summary())
    if settings.show and result.page:
        webbrowser.open(Path(result.page).resolve().as_uri())
    return result


def check_show(settings: Predict) -> None:
    """UserError if there will be no page, or none that a browser can open."""
    if not settings.page:
        raise UserError("there is no page to open", where="--show", fix="leave `--page 0` or `--show` out")
    if not open_store(settings.out).is_local:
        fix = "leave `--show` out, or write to a local folder"
        raise UserError("a browser cannot open a page in a bucket", where="--show", fix=fix)

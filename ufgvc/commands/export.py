"""`ufgvc export`: a model as an ONNX file."""

from __future__ import annotations

from typing import Any

from ufgvc.commands.fields import HasModel, HasRuns
from ufgvc.core.config import select_fields
from ufgvc.core.places import WrittenPlace
from ufgvc.models.model import ExportSettings
from ufgvc.tracking.context import Context


class Export(HasRuns, HasModel, ExportSettings):
    """Settings of `ufgvc export`."""

    out: WrittenPlace
    """folder or URI to write: model.onnx and model.json"""


def run(settings: Export, context: Context) -> dict[str, Any]:
    """Exports a model and prints how far it differs from torch."""
    from ufgvc.models.model import export, load_model

    parity = export(load_model(settings.model, context), settings.out, select_fields(ExportSettings, settings))
    print(f"{settings.out}: {parity.summary()}")
    return {"folder": settings.out, "parity": parity}

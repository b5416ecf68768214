"""`ufgvc serve`: a service that names cultivars over HTTP, with a page."""

from __future__ import annotations

from ufgvc.commands.fields import HasModel, HasRay, HasRuns
from ufgvc.core.config import select_fields
from ufgvc.serving.settings import ServiceSettings
from ufgvc.tracking.context import Context


class Serve(HasRay, HasRuns, HasModel, ServiceSettings):
    """Settings of `ufgvc serve`."""


def run(settings: Serve, context: Context) -> int:
    """Serves until it is stopped."""
    from ufgvc.serving.preflight import check_packages

    check_packages()
    from ufgvc.serving.run import serve_model

    return serve_model(settings.model, select_fields(ServiceSettings, settings), context)

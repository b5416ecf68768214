"""`ufgvc serve`: a service that names cultivars over HTTP, with a page."""

from __future__ import annotations

from ufgvc.commands.fields import HasModel, HasRay, HasRuns
from ufgvc.core.config import select_fields
from ufgvc.serving.settings import Ended, ServiceSettings
from ufgvc.tracking.context import Context


class Serve(HasRay, HasRuns, HasModel, ServiceSettings):
    """Settings of `ufgvc serve`."""


def run(settings: Serve, context: Context) -> Ended:
    """Serves until it is stopped."""
    from ufgvc.serving.preflight import check_packages

    check_packages()
    from ufgvc.serving.run import serve_model

    return serve_model(settings.model, select_fields(ServiceSettings, settings), context)


def exit_code(settings: Serve, result: Ended) -> int:
    """130 after Control-C, 143 after SIGTERM."""
    return 143 if result.stopped_by == "SIGTERM" else 130

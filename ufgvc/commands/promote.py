"""`ufgvc promote`: the challenger against the champion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ufgvc.commands.fields import HasData, HasRay, HasRuns
from ufgvc.core.config import select_fields
from ufgvc.core.places import Place
from ufgvc.evaluation.settings import PromoteSettings
from ufgvc.tracking.context import Context

if TYPE_CHECKING:
    from ufgvc.evaluation.promote import PromoteResult

NOT_PROMOTED = 3  # exit code of `promote --strict`


class Promote(HasRay, HasRuns, HasData, PromoteSettings):
    """Settings of `ufgvc promote`."""

    model: Place | None = None
    """the challenger: models:/name@alias, runs:/<id>/model or a run's model folder; default: the newest challenger
    (models:/ufgvc-<dataset>@challenger)"""


def run(settings: Promote, context: Context) -> PromoteResult:
    """Decides about the champion and prints the decision."""
    from ufgvc.evaluation.promote import promote
    from ufgvc.reports.promotion_tables import promotion_tables
    from ufgvc.reports.tables import show_tables

    result = promote(settings.data, settings.model, select_fields(PromoteSettings, settings), context)
    promotion = result.promotion
    show_tables(promotion_tables(promotion))
    for warning in promotion.warnings:
        print(f"warning: {warning}")
    print(promotion.sentence())
    print(result.file)
    return result


def exit_code(settings: Promote, result: PromoteResult) -> int:
    """NOT_PROMOTED with `--strict`, unless the challenger became champion."""
    return NOT_PROMOTED if settings.strict and result.promotion.decision != "promoted" else 0

"""`ufgvc audit`: what a data set is worth, before and after training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ufgvc.commands.fields import HasData, HasRay, HasRuns, HasSeed
from ufgvc.core.config import select_fields
from ufgvc.core.places import Place, WrittenPlace
from ufgvc.evaluation.audit.settings import AuditSettings
from ufgvc.tracking.context import Context

if TYPE_CHECKING:
    from ufgvc.experiments.audit import AuditResult


class Audit(HasRay, HasSeed, HasRuns, HasData, AuditSettings):
    """Settings of `ufgvc audit`."""

    out: WrittenPlace
    """where audit.html and the CSV files are written: a folder or a URI"""
    model: Place | None = None
    """embeds the leaves: models:/name@alias, runs:/<id>/model, or a folder; default: a frozen network"""


def run(settings: Audit, context: Context) -> AuditResult:
    """Audits a data set and prints what was found."""
    from ufgvc.experiments.audit import audit

    chosen = select_fields(AuditSettings, settings)
    result = audit(settings.data, settings.out, settings.model, chosen, context)
    print(result.summary())
    return result

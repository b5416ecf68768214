"""`ufgvc detect`: trains the region detector and measures it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ufgvc.commands.fields import HasData, HasFresh, HasRay, HasSeed, WritesRuns
from ufgvc.commands.step import Step
from ufgvc.core.config import select_fields
from ufgvc.regions.settings import DetectSettings
from ufgvc.tracking.context import Context

if TYPE_CHECKING:
    from ufgvc.regions.train_detector import DetectResult


class Detect(HasRay, HasFresh, HasSeed, WritesRuns, HasData, DetectSettings):
    """Settings of `ufgvc detect`."""


def run(settings: Detect, context: Context) -> DetectResult:
    """Trains the detector and prints Table I."""
    step = execute(settings, context)
    print(step.summary)
    return step.result


def execute(settings: Detect, context: Context) -> Step[DetectResult]:
    """Trains the detector, or finds the one that the same data, settings and seed made before."""
    from ufgvc.regions.train_detector import detect

    result = detect(settings.data, select_fields(DetectSettings, settings), context)
    return Step(result.summary(), result, result.found)

"""`ufgvc mask`: masks of the regions of every leaf."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ufgvc.commands.fields import HasData, HasFresh, HasMaskKind, HasRay, HasRuns
from ufgvc.commands.step import Step
from ufgvc.core.config import select_fields
from ufgvc.core.places import Place
from ufgvc.regions.settings import MaskSettings
from ufgvc.tracking.context import Context

if TYPE_CHECKING:
    from ufgvc.regions.mask_results import MaskResult


class Mask(HasRay, HasFresh, HasRuns, HasMaskKind, HasData, MaskSettings):
    """Settings of `ufgvc mask`."""

    source: Place | None = None
    """for exact masks: the leaves with masks/<region>/<image id>.png, a folder or a URI"""
    detector: Place | None = None
    """the detector's folder; default: the newest of this data set below --runs"""


def run(settings: Mask, context: Context) -> MaskResult:
    """Stores the masks and prints how many regions were found."""
    step = execute(settings, context)
    print(step.summary)
    return step.result


def execute(settings: Mask, context: Context) -> Step[MaskResult]:
    """Writes the masks, or finds those from the same images, boxes and settings."""
    from ufgvc.regions.mask_dataset import mask

    chosen = select_fields(MaskSettings, settings)
    result = mask(settings.data, chosen, settings.detector, settings.source, context)
    return Step(result.summary(), result, result.found)

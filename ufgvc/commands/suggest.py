"""`ufgvc suggest`: which leaves to annotate next, with boxes proposed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ufgvc.commands.fields import HasData, HasRuns, HasSeed
from ufgvc.core.config import select_fields
from ufgvc.core.places import Place, WrittenPlace
from ufgvc.regions.settings import SuggestSettings
from ufgvc.tracking.context import Context

if TYPE_CHECKING:
    from ufgvc.regions.suggest import SuggestResult


class Suggest(HasSeed, HasRuns, HasData, SuggestSettings):
    """Settings of `ufgvc suggest`."""

    out: WrittenPlace
    """where photographs and proposed boxes are written: a folder or a URI"""
    detector: Place | None = None
    """the detector's folder; default: the newest of this data set below --runs, else one of synthetic leaves"""


def run(settings: Suggest, context: Context) -> SuggestResult:
    """Writes the photographs with proposed boxes and prints which they are."""
    from ufgvc.regions.suggest import suggest

    chosen = select_fields(SuggestSettings, settings)
    result = suggest(settings.data, settings.out, chosen, settings.detector, context)
    print(result.summary())
    return result

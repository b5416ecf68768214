"""`ufgvc search`: the best loss and fusion weights, or any other setting, by cross-validation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ufgvc.commands.fields import HasData, HasMaskKind, HasMethod, HasRay, HasSeed, WritesRuns
from ufgvc.experiments.settings import SearchSettings
from ufgvc.tracking.context import Context
from ufgvc.training.settings import TrainSettings

if TYPE_CHECKING:
    from ufgvc.experiments.search import SearchResult


class Search(HasRay, HasSeed, WritesRuns, HasMaskKind, HasMethod, HasData):
    """Settings of `ufgvc search`."""

    train: TrainSettings = TrainSettings()
    """the training that all trials share"""
    search: SearchSettings = SearchSettings()
    """the search"""


def run(settings: Search, context: Context) -> SearchResult:
    """Runs the search and prints its tables."""
    from ufgvc.experiments.search import search
    from ufgvc.reports.tables import show_tables

    shared = settings.train.model_copy(update={"mask_kind": settings.mask_kind})
    options = settings.options.model_dump(mode="json")
    done = search(settings.data, settings.method, options, shared, settings.search, context)
    show_tables(done.tables)
    print(done.summary)
    if done.failed:
        print(f"{done.failed} of the trainings at the end failed; the same command tries them again")
    best = f"ufgvc train --config {done.folder}/best.yaml"
    print(f"the best setting: `{best}`; everything else: {done.folder}/report.html")
    return done

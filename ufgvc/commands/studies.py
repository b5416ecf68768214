"""Many trainings at once: benchmark, pretrain, search."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from ufgvc.commands.command import command
from ufgvc.commands.fields import DATA, RUNS, SEED, context_of, made, many, services
from ufgvc.core.config import Settings, select_fields


def _benchmark(method: str) -> type[Settings]:
    from ufgvc.experiments.settings import BenchmarkSettings

    text = "ingested data sets; several are draws of cultivars whose test leaves count together"
    data = (Annotated[tuple[str, ...], BeforeValidator(many)], Field(min_length=1, description=text))
    return made("Benchmark", (BenchmarkSettings,), data=data, runs=(str, RUNS), **services())


@command(
    "benchmark",
    "train all methods and ablations and print Tables II and III; killed and started again, it goes on",
    _benchmark,
)
def benchmark(told: Any) -> None:
    from ufgvc.experiments.benchmark import benchmark as run
    from ufgvc.experiments.settings import BenchmarkSettings
    from ufgvc.reports.tables import show_tables

    result = run(told.data, select_fields(BenchmarkSettings, told), context_of(told))
    # What a run costs stands in the page; a terminal has no room for sixteen columns.
    show_tables(result.tables, without=("Backbone", "Parameters", "GFLOPs", "Training", "Minutes", "Learning"))
    print(result.summary)
    if result.failed:
        print(f"{result.failed} trainings failed; the same command tries them again")
    print(f"everything else, failures too: {result.folder}/report.html")


def _pretrain(method: str) -> type[Settings]:
    from ufgvc.experiments.settings import PretrainSettings

    return made("Pretrain", (PretrainSettings,), data=(str, DATA), runs=(str, RUNS), **services())


@command("pretrain", "train first weights for each architecture on leaves that no benchmark uses", _pretrain)
def pretrain(told: Any) -> None:
    from ufgvc.experiments.pretrain import pretrain as run
    from ufgvc.experiments.settings import PretrainSettings

    print(run(told.data, select_fields(PretrainSettings, told), context_of(told)).summary())


def _search(method: str) -> type[Settings]:
    from ufgvc.experiments.settings import SearchSettings
    from ufgvc.methods import names, options_class
    from ufgvc.training.settings import TrainSettings

    options = options_class(method)
    return made(
        "Search",
        (Settings,),
        data=(str, DATA),
        method=(str, Field("mask_guided", description=f"one of {', '.join(names())}; --options are its own")),
        options=(options, options()),
        train=(TrainSettings, TrainSettings()),
        search=(SearchSettings, SearchSettings()),
        runs=(str, RUNS),
        seed=(int, SEED),
        **services(),
    )


@command(
    "search",
    "search loss and fusion weights, or any setting, by cross-validation on training leaves; killed, it goes on",
    _search,
)
def search(told: Any) -> None:
    from ufgvc.experiments.search import search as run
    from ufgvc.reports.tables import show_tables

    options = told.options.model_dump(mode="json")
    done = run(told.data, told.method, options, told.train, told.search, context_of(told))
    show_tables(done.tables)
    print(done.summary)
    if done.failed:
        print(f"{done.failed} of the trainings at the end failed; the same command tries them again")
    print(
        f"the best setting: `ufgvc train --config {done.folder}/best.yaml`; everything else: {done.folder}/report.html"
    )

"""The commands as data: what each can be told, and which part of the program does it. `cli` makes flags of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, cast

from pydantic import BeforeValidator, Field, create_model

from ufgvc.core.config import Section, part
from ufgvc.core.registry import Registry


@dataclass(frozen=True)
class Command:
    """settings: the class of what it can be told, for a method.  run: does it, and prints the result."""

    summary: str
    settings: Callable[[str], type[Section]]
    run: Callable[[Any], None]

    def description(self) -> str:
        return self.summary[0].upper() + self.summary[1:] + "."


COMMANDS: Registry[Command] = Registry("command")
DATA = Field(description="where the ingested data set lies: a folder, s3://bucket/prefix, or another URI of pyarrow.fs")
RUNS = Field("runs", description="where runs are kept: a folder or a URI")
MODEL = Field(description="models:/name@alias, runs:/<id>/model, or a folder")
SOURCE = Field(description="the photographs: a folder or a URI")
SEED = Field(0, ge=0, description="seed of everything that is drawn")
FRESH = Field(False, description="start over instead of using what an earlier run left")


def command(name: str, summary: str, settings: Callable[[str], type[Section]]) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    def keep(run: Callable[[Any], None]) -> Callable[[Any], None]:
        COMMANDS.register(name)(Command(summary, settings, run))
        return run

    return keep


def _made(name: str, bases: tuple[type[Section], ...], /, **fields: Any) -> type[Section]:
    return cast(type[Section], create_model(name, __base__=bases, **fields))


def _services(tracked: bool = True) -> dict[str, Any]:
    from ufgvc.data.cluster import RaySettings
    from ufgvc.track.settings import TrackingSettings

    ray = {"ray": (RaySettings, RaySettings())}
    return ray | ({"tracking": (TrackingSettings, TrackingSettings())} if tracked else {})


def _synth(method: str) -> type[Section]:
    from ufgvc.data.synthetic import SynthSettings

    return _made("Synth", (SynthSettings,), out=(str, Field(description="folder to write")), seed=(int, SEED))


@command("synth", "make synthetic leaves in the released Ultra-FGVC layout, with exact masks", _synth)
def synth(told: Any) -> None:
    from pathlib import Path

    from ufgvc.core.runtime import cpu_count
    from ufgvc.data.synthetic import SynthSettings, synthesize

    print(synthesize(Path(told.out), part(SynthSettings, told), told.seed, workers=cpu_count()))


def _source() -> dict[str, Any]:
    from ufgvc.data.readers import ReaderName

    return {
        "source": (str, SOURCE),
        "name": (str | None, Field(None, description="name of the data set; default: the last part of --data")),
        "reader": (ReaderName, Field("auto", description="form of the source; auto looks at it")),
        "boxes": (str | None, Field(None, description="boxes in YOLO, COCO or Pascal VOC form, if they do not lie in the source")),
        "split": (
            float | None,
            Field(None, gt=0, lt=1, description="share of each cultivar that becomes test, for a source without a split"),
        ),
    }


def _ingest(method: str) -> type[Section]:
    from ufgvc.data.ingest import IngestSettings

    return _made("Ingest", (IngestSettings,), data=(str, DATA), seed=(int, SEED), **_source(), **_services(False))


@command("ingest", "read photographs and boxes, check them, and store them as a data set", _ingest)
def ingest(told: Any) -> None:
    from ufgvc import pipeline

    print(pipeline.ingest_step(told, told).summary)


def _detect(method: str) -> type[Section]:
    from ufgvc.regions.settings import DetectSettings

    return _made("Detect", (DetectSettings,), data=(str, DATA), runs=(str, RUNS), seed=(int, SEED), fresh=(bool, FRESH), **_services())


@command("detect", "train the region detector on a few dozen annotated leaves and measure it (Table I)", _detect)
def detect(told: Any) -> None:
    from ufgvc import pipeline

    print(pipeline.detect_step(told, told).summary)


def _mask(method: str) -> type[Section]:
    from ufgvc.regions.settings import MaskSettings

    source = (str | None, Field(None, description="for kind exact: the leaves with masks/vein and masks/contour, a folder or a URI"))
    model = (str | None, Field(None, description="the detector's folder; default: the newest of this data set below --runs"))
    places: dict[str, Any] = {"data": (str, DATA), "source": source, "runs": (str, RUNS), "model": model}
    return _made("Mask", (MaskSettings,), fresh=(bool, FRESH), **places, **_services())


@command("mask", "find the regions of every leaf and store their masks", _mask)
def mask(told: Any) -> None:
    from ufgvc import pipeline

    print(pipeline.mask_step(told, told, told.model).summary)


def _train(method: str) -> type[Section]:
    from ufgvc.methods import names, options_class
    from ufgvc.train.settings import TrainSettings

    options = options_class(method)
    return _made(
        "Train",
        (Section,),
        data=(str, DATA),
        method=(str, Field("mask_guided", description=f"one of {', '.join(names())}; --options are its own")),
        options=(options, options()),
        train=(TrainSettings, TrainSettings()),
        runs=(str, RUNS),
        seed=(int, SEED),
        fresh=(bool, FRESH),
        **_services(),
    )


@command("train", "train a classifier; the same command again goes on or finds its run", _train)
def train(told: Any) -> None:
    from ufgvc import pipeline

    print(pipeline.train_step(told).summary)


def _evaluate(method: str) -> type[Section]:
    from ufgvc.report.settings import EvaluateSettings

    compare = (tuple[str, ...], Field((), description="other models as label=MODEL, for the table, the tests and the figure"))
    return _made("Evaluate", (EvaluateSettings,), data=(str, DATA), model=(str, MODEL), compare=compare, runs=(str, RUNS), **_services())


@command("evaluate", "score a model on the test leaves, write report.html, and file it in the registry as challenger", _evaluate)
def evaluate(told: Any) -> None:
    from ufgvc import pipeline

    print(pipeline.evaluate_step(told, told, told.model, told.compare).summary)


def _predict(method: str) -> type[Section]:
    from ufgvc.predict.settings import PredictSettings

    out = (str, Field(description="where predictions are written: a folder or a URI"))
    return _made("Predict", (PredictSettings,), source=(str, SOURCE), model=(str, MODEL), out=out, runs=(str, RUNS), **_services())


@command("predict", "name the cultivar on new photographs", _predict)
def predict(told: Any) -> None:
    from ufgvc.predict.predict import predict as run
    from ufgvc.predict.settings import PredictSettings

    done = run(told.source, told.model, told.out, part(PredictSettings, told), told.tracking, told.runs, told.ray)
    print(done.summary())


def _pipeline(method: str) -> type[Section]:
    from ufgvc.data.ingest import IngestSettings
    from ufgvc.regions.settings import DetectSettings, MaskSettings
    from ufgvc.report.settings import EvaluateSettings

    sections: dict[str, Any] = {
        name: (kind, kind())
        for name, kind in (("ingest", IngestSettings), ("detect", DetectSettings), ("mask", MaskSettings), ("evaluate", EvaluateSettings))
    }
    compare = (tuple[str, ...], Field((), description="other models as label=MODEL"))
    return _made("Pipeline", (_train(method),), compare=compare, **_source(), **sections)


@command("pipeline", "everything in order: ingest, detect, mask, train, evaluate; what is done already is skipped", _pipeline)
def pipeline(told: Any) -> None:
    from ufgvc.pipeline import run_pipeline

    run_pipeline(told)


def _many(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _benchmark(method: str) -> type[Section]:
    from ufgvc.search.settings import BenchmarkSettings

    text = "ingested data sets; several are draws of cultivars whose test leaves count together"
    data = (Annotated[tuple[str, ...], BeforeValidator(_many)], Field(min_length=1, description=text))
    return _made("Benchmark", (BenchmarkSettings,), data=data, runs=(str, RUNS), **_services())


@command("benchmark", "train all methods and ablations and print Tables II and III; killed and started again, it goes on", _benchmark)
def benchmark(told: Any) -> None:
    from ufgvc.report.show import show_tables
    from ufgvc.search.benchmark import benchmark as run
    from ufgvc.search.settings import BenchmarkSettings

    result = run(told.data, part(BenchmarkSettings, told), told.runs, told.tracking, told.ray)
    # What a run costs stands in the page; a terminal has no room for sixteen columns.
    show_tables(result.tables, without=("Backbone", "Parameters", "GFLOPs", "Training", "Minutes", "Learning"))
    print(result.reading)
    if result.failed:
        print(f"{result.failed} trainings failed; the same command tries them again")
    print(f"everything else, failures too: {result.folder}/report.html")


def _pretrain(method: str) -> type[Section]:
    from ufgvc.search.settings import PretrainSettings

    return _made("Pretrain", (PretrainSettings,), data=(str, DATA), runs=(str, RUNS), **_services())


@command("pretrain", "train first weights for each architecture on leaves that no benchmark uses", _pretrain)
def pretrain(told: Any) -> None:
    from ufgvc.search.pretrain import pretrain as run
    from ufgvc.search.settings import PretrainSettings

    print(run(told.data, part(PretrainSettings, told), told.runs, told.tracking, told.ray).summary())


def _sync(method: str) -> type[Section]:
    from ufgvc.track.settings import TrackingSettings

    run = (str | None, Field(None, description="one run's folder; default: every run below --runs"))
    return _made("Sync", (Section,), run=run, runs=(str, RUNS), tracking=(TrackingSettings, TrackingSettings()))


@command("sync", "send MLflow what it missed while its server was away", _sync)
def sync(told: Any) -> None:
    from ufgvc.core.errors import UserError
    from ufgvc.core.storage import open_store
    from ufgvc.track.sync import sync as run

    store = open_store(told.run or told.runs)
    folders = sorted({name.removesuffix("journal/run.json").rstrip("/") for name in store.list() if name.endswith("journal/run.json")})
    if not folders:
        raise UserError("there is no run with a journal", where=store.uri, fix="give the folder that --runs named")
    for folder in folders:
        sent = run((store.child(folder) if folder else store).uri, told.tracking, told.runs)
        print(f"{folder or store.uri}: {f'sent {sent}' if sent else 'nothing was missing'}")

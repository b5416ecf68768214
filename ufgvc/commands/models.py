"""Models: train, evaluate, predict, export, calibrate, and the pipeline of all steps."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from ufgvc.commands.command import command
from ufgvc.commands.fields import DATA, FRESH, MODEL, RUNS, SEED, SOURCE, context_of, made, services, source_fields
from ufgvc.core.config import Settings, select_fields


def _train(method: str) -> type[Settings]:
    from ufgvc.methods import names, options_class
    from ufgvc.training.settings import TrainSettings

    options = options_class(method)
    return made(
        "Train",
        (Settings,),
        data=(str, DATA),
        method=(str, Field("mask_guided", description=f"one of {', '.join(names())}; --options are its own")),
        options=(options, options()),
        train=(TrainSettings, TrainSettings()),
        runs=(str, RUNS),
        seed=(int, SEED),
        fresh=(bool, FRESH),
        **services(),
    )


@command("train", "train a classifier; the same command again goes on or finds its run", _train)
def train(told: Any) -> None:
    from ufgvc.commands import steps as pipeline

    print(pipeline.train_step(told).summary)


def _evaluate(method: str) -> type[Settings]:
    from ufgvc.evaluation.settings import EvaluateSettings

    compare = (
        tuple[str, ...],
        Field((), description="other models as label=MODEL, for the table, the tests and the figure"),
    )
    return made(
        "Evaluate",
        (EvaluateSettings,),
        data=(str, DATA),
        model=(str, MODEL),
        compare=compare,
        runs=(str, RUNS),
        **services(),
    )


@command(
    "evaluate",
    "score a model on the test leaves, write report.html, and file it in the registry as challenger",
    _evaluate,
)
def evaluate(told: Any) -> None:
    from ufgvc.commands import steps as pipeline

    print(pipeline.evaluate_step(told, told, told.model, told.compare).summary)


def _predict(method: str) -> type[Settings]:
    from ufgvc.evaluation.settings import PredictSettings

    out = (str, Field(description="where predictions are written: a folder or a URI"))
    return made(
        "Predict", (PredictSettings,), source=(str, SOURCE), model=(str, MODEL), out=out, runs=(str, RUNS), **services()
    )


@command("predict", "name the cultivar on new photographs", _predict)
def predict(told: Any) -> None:
    from ufgvc.evaluation.predict import predict as run
    from ufgvc.evaluation.settings import PredictSettings

    done = run(told.source, told.model, told.out, select_fields(PredictSettings, told), context_of(told))
    print(done.summary())


def _export(method: str) -> type[Settings]:
    from ufgvc.models.model import ExportSettings
    from ufgvc.tracking.settings import TrackingSettings

    out = (str, Field(description="folder or URI to write: model.onnx and model.json"))
    tracking = (TrackingSettings, TrackingSettings())
    return made("Export", (ExportSettings,), model=(str, MODEL), out=out, runs=(str, RUNS), tracking=tracking)


@command("export", "write a model as an ONNX file, checked against torch; `predict --model` takes its folder", _export)
def export(told: Any) -> None:
    from ufgvc.models.model import ExportSettings, load_model
    from ufgvc.models.model import export as run

    parity = run(load_model(told.model, context_of(told)), told.out, select_fields(ExportSettings, told))
    print(f"{told.out}: {parity.summary()}")


def _calibrate(method: str) -> type[Settings]:
    from ufgvc.experiments.calibrate import CalibrateSettings

    return made("Calibrate", (CalibrateSettings,), data=(str, DATA), model=(str, MODEL), runs=(str, RUNS), **services())


@command(
    "calibrate",
    "make a model's probabilities honest, and give it an out-of-distribution score above which a leaf is unknown",
    _calibrate,
)
def calibrate(told: Any) -> None:
    from ufgvc.experiments.calibrate import CalibrateSettings, calibrate_model

    print(calibrate_model(told.data, told.model, select_fields(CalibrateSettings, told), context_of(told)).summary())


def _pipeline(method: str) -> type[Settings]:
    from ufgvc.data.ingest import IngestSettings
    from ufgvc.evaluation.settings import EvaluateSettings
    from ufgvc.regions.settings import DetectSettings, MaskSettings

    sections: dict[str, Any] = {
        name: (kind, kind())
        for name, kind in (
            ("ingest", IngestSettings),
            ("detect", DetectSettings),
            ("mask", MaskSettings),
            ("evaluate", EvaluateSettings),
        )
    }
    compare = (tuple[str, ...], Field((), description="other models as label=MODEL"))
    return made("Pipeline", (_train(method),), compare=compare, **source_fields(), **sections)


@command(
    "pipeline", "everything in order: ingest, detect, mask, train, evaluate; what is done already is skipped", _pipeline
)
def pipeline(told: Any) -> None:
    from ufgvc.commands.steps import run_pipeline

    run_pipeline(told)

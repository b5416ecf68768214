"""What a step of the pipeline is called with, and what the pipeline refuses before it starts anything."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.golden.trainings import HERE
from ufgvc.cli import main, parse
from ufgvc.commands import COMMANDS, detect, evaluate, mask, pipeline, train
from ufgvc.core.errors import UserError
from ufgvc.data.dataset import open_dataset
from ufgvc.experiments.candidates import Attempt, Candidate, Choice
from ufgvc.methods import build
from ufgvc.runtime.session import RaySettings
from ufgvc.tracking.context import Context
from ufgvc.training.run import make_worker_config
from ufgvc.training.settings import TrainSettings

PLACES = ["--source", "leaves", "--data", "data", "--ray.cpus", "7"]
Call = tuple[Any, ...]
STORE = SimpleNamespace(uri="data")
DATASET = SimpleNamespace(
    store=STORE,
    name="drawn",
    fingerprint="f" * 64,
    classes=("a", "b"),
    counts={"train": 4},
    regions=("vein", "contour"),
)


def settings_of(name: str, *flags: str) -> Any:
    return parse(COMMANDS.get(name), [*flags])


@pytest.fixture(autouse=True)
def no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a Ray session was opened that is not used")

    monkeypatch.setattr("ray.init", refuse)
    monkeypatch.setattr("ray.is_initialized", lambda: False)


def stub(monkeypatch: pytest.MonkeyPatch, name: str, **result: Any) -> list[Call]:
    """Replaces a function by one that does nothing; returns the list of its calls' arguments."""
    calls: list[Call] = []

    def call(*args: Any) -> SimpleNamespace:
        calls.append(args)
        return SimpleNamespace(summary=lambda: "done", found=True, **result)

    monkeypatch.setattr(name, call)
    return calls


def test_the_context_of_a_command() -> None:
    places = ["--data", "data", "--runs", "s3://b/r", "--tracking.uri", "off", "--ray.cpus", "7"]
    context = settings_of("detect", *places, "--seed", "3", "--fresh").context()
    assert (context.runs, context.tracking.uri, context.ray) == ("s3://b/r", "off", RaySettings(cpus=7))
    assert (context.seed, context.fresh) == (3, True)
    assert settings_of("synth", "--out", "x").context() == Context()


def test_steps_that_find_their_result_open_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step's function gets the context, and opens a Ray session itself if it needs one."""
    found = {
        "detect": stub(monkeypatch, "ufgvc.regions.train_detector.detect", model="detector"),
        "mask": stub(monkeypatch, "ufgvc.regions.mask_dataset.mask"),
        "train": stub(monkeypatch, "ufgvc.training.run.train", metrics={"train_accuracy": 0.5}, model="runs/model"),
        "evaluate": stub(monkeypatch, "ufgvc.experiments.evaluate.evaluate"),
    }
    data = ["--data", "data", "--ray.cpus", "7"]
    for module in (detect, mask, train, evaluate):
        name = module.__name__.rpartition(".")[2]
        settings = settings_of(name, *data, *(["--model", "m"] if name == "evaluate" else []))
        step = module.execute(settings, settings.context())
        assert (step.found, bool(step.summary)) == (name != "evaluate", True)
        (arguments,) = found[name]
        assert arguments[-1].ray == RaySettings(cpus=7)


@pytest.mark.parametrize("kind", ["box", "exact"])
def test_a_pipeline_passes_its_settings_on(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exact masks are asked for once, and need no detector; sections keep their own settings."""
    stub(monkeypatch, "ufgvc.commands.ingest.execute", result=DATASET)
    detects = stub(monkeypatch, "ufgvc.regions.train_detector.detect", model="the detector")
    masks = stub(monkeypatch, "ufgvc.regions.mask_dataset.mask")
    trains = stub(monkeypatch, "ufgvc.training.run.train", metrics={"train_accuracy": 0.5}, model="the model")
    evaluates = stub(monkeypatch, "ufgvc.experiments.evaluate.evaluate")
    more = ["--mask-kind", kind, "--boxes", "b.json", "--mask.confidence", "0.4", "--train.init", "none", "--seed", "3"]
    settings = settings_of("pipeline", *PLACES, "--method", "mask_guided", *more)
    results = pipeline.run(settings, settings.context())
    steps = ["ingest", *(["detect"] if kind == "box" else []), "mask", "train", "evaluate"]
    assert (list(results), results["ingest"]["name"]) == (steps, "drawn")
    assert [call[0] for call in detects] == ([] if kind == "exact" else ["data"])
    ((data, mask_settings, detector, source, context),) = masks
    assert (data, mask_settings.mask_kind, mask_settings.confidence) == ("data", kind, 0.4)
    assert (detector, source) == (None if kind == "exact" else "the detector", "leaves")
    assert (mask_settings.box_source, context.seed) == ("detected", 3)
    ((_, method, _, train_settings, _),) = trains
    assert (method, train_settings.mask_kind, train_settings.init) == ("mask_guided", kind, "none")
    ((_, model, others, evaluate_settings, _),) = evaluates
    assert (model, others, evaluate_settings.mask_kind) == ("the model", {}, kind)
    assert ("== detect" in capsys.readouterr().out) == (kind == "box")


def test_a_pipeline_over_folds_is_refused_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """Folds measure a recipe; there is no one model of them that could be evaluated and registered."""
    places = ["--source", "nowhere", "--data", "none", "--method", "resnet50"]
    assert main(["pipeline", *places, "--train.validation", "kfold"]) == 2
    message = capsys.readouterr().err
    assert "ufgvc train --train.validation kfold" in message
    assert "nowhere" not in message


def test_a_pipeline_chooses_its_method_and_makes_no_masks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stub(monkeypatch, "ufgvc.commands.ingest.execute", result=DATASET)
    stub(monkeypatch, "ufgvc.experiments.evaluate.evaluate")
    trains = stub(monkeypatch, "ufgvc.training.run.train", metrics={"train_accuracy": 0.5}, model="the model")
    candidate = Candidate("resnet50", {"backbone": "resnet18"}, {"epochs": 7})
    chosen = Choice(candidate, (Attempt("resnet50", "first", 1.0, 3, 4),), 2.0)
    monkeypatch.setattr("ufgvc.experiments.auto.choose_method", lambda *_: chosen)
    settings = settings_of("pipeline", *PLACES, "--budget", "2", "--train.init", "none")
    pipeline.run(settings, settings.context())
    ((data, method, options, train_settings, _),) = trains
    assert (data, method, options, train_settings.epochs) == ("data", "resnet50", {"backbone": "resnet18"}, 7)
    printed = capsys.readouterr().out
    assert "resnet50: 3 of 4 training leaves out of fold (1 s)" in printed
    assert "== mask" not in printed


def test_a_pipeline_that_chooses_its_method_refuses_a_validation_before_anything_runs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["pipeline", "--source", "nowhere", "--data", "none", "--train.validation", "holdout"]) == 2
    assert "not with validation holdout" in capsys.readouterr().err


def test_a_pipeline_of_one_fold_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--method", "resnet50", "--train.validation", "kfold", "--train.fold", "1", "--train.init", "none"]

    def begins(*_: object) -> None:
        raise UserError("it begins")

    monkeypatch.setattr("ufgvc.commands.pipeline.keep_ray_session", begins)
    settings = settings_of("pipeline", *PLACES, *flags)
    with pytest.raises(UserError, match="it begins"):
        pipeline.run(settings, settings.context())


@pytest.mark.parametrize("pair", ["model", "=model", "label="])
def test_a_compared_model_needs_a_label(pair: str) -> None:
    with pytest.raises(UserError, match="is not label=MODEL"):
        evaluate.labelled_models([pair])


def test_what_can_change_the_result_names_the_run(tmp_path: Path) -> None:
    dataset = open_dataset(str(HERE / "leaves"))
    method = build("resnet50", len(dataset.classes), init="none", backbone="shufflenet_v2_x0_5")

    def key(**settings: Any) -> str:
        _, identity = make_worker_config(
            dataset, method, TrainSettings(init="none", **settings), 0, None, str(tmp_path)
        )
        return str(identity["key"])

    assert key() == key(checkpoint_seconds=0)
    assert len({key(), key(epochs=2), key(crop=32, resize=40), key(cache="none"), key(validation="holdout")}) == 5

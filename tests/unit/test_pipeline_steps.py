"""What a step of the pipeline starts, and what the pipeline refuses before it starts anything."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ufgvc.cli import main
from ufgvc.commands import steps as pipeline
from ufgvc.core.errors import UserError
from ufgvc.evaluation.settings import EvaluateSettings
from ufgvc.regions.settings import DetectSettings, MaskSettings
from ufgvc.runtime.session import RaySettings
from ufgvc.training.settings import TrainSettings

RAY = RaySettings(cpus=7)


@pytest.fixture
def told() -> SimpleNamespace:
    """The settings of a command, whatever it is."""
    places = {
        "source": "leaves",
        "data": "data",
        "runs": "runs",
        "seed": 0,
        "fresh": False,
        "tracking": None,
        "method": "resnet50",
        "compare": (),
    }
    return SimpleNamespace(
        **places, ray=RAY, train=TrainSettings(), options=SimpleNamespace(model_dump=lambda mode: {})
    )


@pytest.fixture(autouse=True)
def no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a Ray session was opened that nobody uses")

    monkeypatch.setattr("ray.init", refuse)
    monkeypatch.setattr("ray.is_initialized", lambda: False)


def stub(monkeypatch: pytest.MonkeyPatch, name: str, **result: Any) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def call(*args: Any, **more: Any) -> SimpleNamespace:
        calls.append((args, more))
        return SimpleNamespace(summary=lambda: "done", found=True, **result)

    monkeypatch.setattr(name, call)
    return calls


def test_a_detector_needs_no_session(told: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = stub(monkeypatch, "ufgvc.regions.train_detector.detect")
    assert pipeline.detect_step(told, DetectSettings()).summary == "done"
    assert len(calls) == 1


def test_an_evaluation_opens_its_session_itself_if_it_needs_one(
    told: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    (call,) = [stub(monkeypatch, "ufgvc.experiments.evaluate.evaluate")]
    pipeline.evaluate_step(told, EvaluateSettings(), "model", ())
    assert call[0][0][-1].ray == RAY


def test_masks_and_models_that_are_found_need_no_session(
    told: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = stub(monkeypatch, "ufgvc.regions.mask_dataset.mask")
    models = stub(monkeypatch, "ufgvc.training.run.train", metrics={"train_accuracy": 0.5}, model="runs/model")
    pipeline.mask_step(told, MaskSettings(), None)
    pipeline.train_step(told)
    assert masks[0][0][-1].ray == RAY
    assert models[0][0][-1].ray == RAY


def test_a_pipeline_over_folds_is_refused_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """Folds measure a recipe; there is no one model of them that could be evaluated and registered."""
    places = ["--source", "nowhere", "--data", "none", "--method", "resnet50"]
    assert main(["pipeline", *places, "--train.validation", "kfold"]) == 2
    said = capsys.readouterr().err
    assert "ufgvc train --train.validation kfold" in said
    assert "nowhere" not in said


def test_a_pipeline_of_one_fold_is_not(told: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    told.train = TrainSettings(validation="kfold", fold=1)

    def reached(*_: object) -> None:
        raise UserError("it begins")

    monkeypatch.setattr(pipeline, "ray_session", reached)
    with pytest.raises(UserError, match="it begins"):
        pipeline.run_pipeline(told)

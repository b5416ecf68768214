"""A calibration is added to the model of a run: with this version's package, and at the end only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import ufgvc
from ufgvc.core.storage import Store, open_store
from ufgvc.methods import build
from ufgvc.models.calibration import Calibration, FeatureSubspace, fit_feature_subspace
from ufgvc.models.format import save_model, write_calibration
from ufgvc.models.model import load_model
from ufgvc.tracking.context import Context
from ufgvc.tracking.journal import Journal
from ufgvc.tracking.runs import MlflowRun, start_run
from ufgvc.tracking.settings import TrackingSettings

FITTED = Calibration(temperature=1.5, threshold=0.3, coverage=0.95, num_images=18, source="a test")
SUBSPACE = fit_feature_subspace(np.random.default_rng(0).random((9, 8)))
NOWHERE = "http://127.0.0.1:9"
PACKAGE = "model/code/ufgvc/__init__.py"


@pytest.fixture
def run(tmp_path: Path) -> Store:
    """A run of an earlier version."""
    method = build("resnet50", num_classes=3, init="none", backbone="shufflenet_v2_x0_5")
    save_model(tmp_path / "model", method, ["a", "b", "c"], {"resize": 40, "size": 32})
    (tmp_path / PACKAGE).write_text("raise ImportError('of an earlier version')\n")
    return open_store(tmp_path)


def calibrate(run: Store, uri: str = "off", subspace: FeatureSubspace = SUBSPACE) -> None:
    context = Context(runs=run.uri, tracking=TrackingSettings(uri=uri))
    write_calibration(run, FITTED, subspace, "leaves", context)


def calibration_of(run: Store) -> Calibration | None:
    return load_model(run.child("model").uri).calibration


def test_the_model_of_a_run_without_mlflow_gets_this_versions_package(run: Store) -> None:
    calibrate(run)
    assert calibration_of(run) == FITTED
    assert run.read_bytes(PACKAGE) == Path(ufgvc.__file__).read_bytes()


def test_what_mlflow_gets_is_what_the_run_has(run: Store) -> None:
    context = Context(runs=run.uri, tracking=TrackingSettings(uri=NOWHERE))
    start_run(context, "leaves", "r", {}, {}, store=run).finish()
    calibrate(run, NOWHERE)
    journal = Journal(run.child("journal"))
    sent = {name.partition("/")[2]: journal.read_artifact(name) for name in journal.list_artifacts()}
    own = run.child("model")
    assert sent == {name: own.read_bytes(name) for name in own.list()}
    assert sent["code/ufgvc/__init__.py"] == Path(ufgvc.__file__).read_bytes()


def test_an_interrupt_while_it_is_sent_leaves_the_model_as_it_was(run: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    context = Context(runs=run.uri, tracking=TrackingSettings(uri=NOWHERE))
    start_run(context, "leaves", "r", {}, {}, store=run).finish()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MlflowRun, "log_folder", interrupted)
        with pytest.raises(KeyboardInterrupt):
            calibrate(run, NOWHERE)
    assert calibration_of(run) is None
    journal = Journal(run.child("journal"))
    assert (journal.read_identity() or {})["status"] == "KILLED"
    calibrate(run, NOWHERE)
    assert calibration_of(run) == FITTED
    assert (journal.read_identity() or {})["status"] == "FINISHED"
    again = fit_feature_subspace(np.random.default_rng(1).random((9, 8)))
    with monkeypatch.context() as patch:
        patch.setattr(MlflowRun, "log_folder", interrupted)
        with pytest.raises(KeyboardInterrupt):
            calibrate(run, NOWHERE, again)
    kept = load_model(run.child("model").uri).subspace
    assert kept is not None
    assert np.array_equal(kept.basis, SUBSPACE.basis), "the threshold belongs to another subspace"

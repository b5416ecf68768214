"""From a trained run to calibrated probabilities, unknown leaves and an exported model, with Ray and MLflow."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.integration.coloured_leaves import COLOURS, OFF, TRAINED, leaf, trained
from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store
from ufgvc.data.ingest import ingest
from ufgvc.evaluation.predict import predict
from ufgvc.evaluation.settings import EvaluateSettings, PredictSettings
from ufgvc.experiments.calibrate import CalibrateSettings, calibrate_model
from ufgvc.experiments.evaluate import evaluate
from ufgvc.models.calibration import Calibration, fit_feature_subspace
from ufgvc.models.format import write_calibration
from ufgvc.models.model import load_model
from ufgvc.tracking.context import Context
from ufgvc.tracking.registry import list_versions, register
from ufgvc.tracking.settings import TrackingSettings
from ufgvc.tracking.versions import find_version, read_card

SMALL = EvaluateSettings(cam_leaves=0, region_leaves=0, max_actors=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Iterator[str]:
    root = tmp_path_factory.mktemp("leaves")
    for split, each in (("train", 6), ("test", 4)):
        for name in COLOURS:
            (root / split / name).mkdir(parents=True)
            for number in range(each):
                (root / split / name / f"{number}.png").write_bytes(leaf(name, number + 100 * (split == "test")))
    uri = str(tmp_path_factory.mktemp("data") / "colours")
    ingest(str(root), uri)
    yield uri
    TRAINED.clear()


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("new")
    for number, name in enumerate((*COLOURS, *COLOURS)):
        (folder / f"{number}.png").write_bytes(leaf(name, 900 + number, 40 + 9 * number))
    return str(folder)


@pytest.fixture(scope="module")
def calibrated(data: str, tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> str:
    """A run's model, calibrated over two folds while nobody could have read a test leaf."""
    runs = tmp_path_factory.mktemp("runs")
    model = trained(data, runs)
    hidden = [path for path in Path(data, "images").glob("test-*") if path.rename(path.with_suffix(".hidden"))]
    assert hidden
    settings = CalibrateSettings(folds=2, max_concurrent_trials=1, coverage=0.9)
    result = calibrate_model(data, model, settings, Context(runs=str(runs), tracking=OFF))
    run = Path(model).parent
    cells = {path: path.stat().st_mtime_ns for path in run.glob("calibration/fold-*/result.json")}
    assert len(cells) == 2
    again = calibrate_model(data, model, settings, Context(runs=str(runs), tracking=OFF))
    assert again == result
    assert {path: path.stat().st_mtime_ns for path in cells} == cells, "finished folds are not trained again"
    for path in hidden:
        path.with_suffix(".hidden").rename(path)
    found = load_model(model).calibration
    assert found == result.calibration
    assert (found.num_images, found.source, found.coverage) == (18, "2-fold", 0.9)
    assert result.metrics["log_loss_after"] <= result.metrics["log_loss_before"]
    return model


def rows_of(result) -> dict[str, dict[str, str]]:
    with open(result.csv, newline="", encoding="utf-8") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


# Each method exported: tests/unit/test_export.py; by the command line: test_every_command.py.
@pytest.mark.slow
def test_onnxruntime_names_the_photographs_as_torch_does(calibrated: str, photographs: str, tmp_path: Path) -> None:
    """By torch in this process, and exported for the purpose by an actor."""
    torch_rows, onnx_rows = (
        rows_of(
            predict(
                photographs,
                calibrated,
                str(tmp_path / runtime),
                PredictSettings(batch_size=4, runtime=runtime, max_actors=actors),
                Context(tracking=OFF),
            )
        )
        for runtime, actors in (("torch", 0), ("onnx", 1))
    )
    assert len(torch_rows) == 6
    assert len({row["top1_cultivar"] for row in torch_rows.values()}) > 1, (
        "a model that always says the same proves little"
    )
    for path, wanted in torch_rows.items():
        found = onnx_rows[path]
        assert [found[column] for column in found if column.endswith("cultivar")] == [
            wanted[column] for column in wanted if column.endswith("cultivar")
        ]
        for column in (name for name in wanted if name.endswith("probability")):
            assert float(found[column]) == pytest.approx(float(wanted[column]), abs=1e-4)


def test_a_leaf_above_the_threshold_is_unknown_and_keeps_its_candidates(
    calibrated: str, photographs: str, tmp_path: Path
) -> None:
    folder = open_store(str(tmp_path / "strict"))
    folder.upload(Path(calibrated))
    info = folder.read_json("model.json")
    plain = load_model(calibrated)
    images = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(Path(photographs).glob("*.png"))]
    ood_score = np.sort(plain.score(images)[1])
    info["calibration"]["threshold"] = (ood_score[2] + ood_score[3]) / 2
    folder.write_json("model.json", info)
    result = predict(photographs, folder.uri, str(tmp_path / "out"), PredictSettings(), Context(tracking=OFF))
    rows = rows_of(result)
    unknown = {path for path, row in rows.items() if row["known"] == "false"}
    assert len(unknown) == result.unknown == 3
    assert "3 of them unknown" in result.summary()
    assert unknown == {path for path, row in rows.items() if row["cultivar"] == "unknown"}
    parts = pq.read_table(list(result.parquet)).to_pylist()
    assert unknown == {row["path"] for row in parts if row["known"] is False}
    for row in rows.values():
        assert row["top1_cultivar"] in COLOURS
        assert row["probability"] == row["top1_probability"]
    table = load_model(folder.uri).predict([path.read_bytes() for path in sorted(Path(photographs).glob("*.png"))])
    assert table.cultivar.tolist() == [rows[path]["cultivar"] for path in sorted(rows)]
    assert table.known.tolist() == [path not in unknown for path in sorted(rows)]
    assert all(json.loads(text)[0]["cultivar"] in COLOURS for text in table.top5)
    named = rows_of(
        predict(photographs, folder.uri, str(tmp_path / "named"), PredictSettings(unknown=False), Context(tracking=OFF))
    )
    assert {row["cultivar"] for row in named.values()} <= set(COLOURS)


@pytest.mark.parametrize(
    ("classes", "marker"),
    [
        pytest.param(["Unknown", "birch", "cedar"], "(unknown)", marks=pytest.mark.slow),
        (["unknown", "(unknown)", "cedar"], "((unknown))"),
    ],
)
def test_a_cultivar_that_is_called_unknown_is_another_thing(
    classes: list[str], marker: str, calibrated: str, photographs: str, tmp_path: Path
) -> None:
    folder = open_store(str(tmp_path / "named"))
    folder.upload(Path(calibrated))
    info = folder.read_json("model.json")
    info["classes"] = classes
    info["calibration"]["threshold"] = -1.0  # no leaf is known
    folder.write_json("model.json", info)
    rows = rows_of(predict(photographs, folder.uri, str(tmp_path / "out"), PredictSettings(), Context(tracking=OFF)))
    assert {(row["cultivar"], row["known"]) for row in rows.values()} == {(marker, "false")}
    assert {row["top1_cultivar"] for row in rows.values()} <= set(classes)
    table = load_model(folder.uri).predict([path.read_bytes() for path in sorted(Path(photographs).glob("*.png"))])
    assert set(table.cultivar) == {marker}
    assert not table.known.any()


def test_a_model_that_was_never_calibrated_says_so(data: str, photographs: str, tmp_path: Path) -> None:
    result = predict(
        photographs, trained(data, tmp_path), str(tmp_path / "out"), PredictSettings(), Context(tracking=OFF)
    )
    assert "the probabilities are not calibrated and no leaf can be called unknown" in result.summary()
    assert "unknown" not in {row["cultivar"] for row in rows_of(result).values()}


def test_the_report_tells_what_probabilities_are_worth_and_accuracy_stays(
    calibrated: str, data: str, tmp_path: Path
) -> None:
    result = evaluate(data, calibrated, {}, SMALL, Context(runs=str(tmp_path), tracking=OFF))
    found = result.metrics["models"]["this model"]["reliability"]
    model = load_model(calibrated)
    assert found["temperature"] == model.temperature
    assert found["leaves"] == 12
    html = open_store(result.folder).read_text("report.html")
    assert "Probabilities on the test leaves" in html
    assert f"{found['unknown']} of 12" in html
    plain = Path(calibrated, "model.json")
    info = json.loads(plain.read_text())
    bare = open_store(str(tmp_path / "bare"))
    bare.upload(Path(calibrated))
    bare.write_json("model.json", {**info, "calibration": None})
    without = evaluate(data, bare.uri, {}, SMALL, Context(runs=str(tmp_path), tracking=OFF))
    assert without.scores.accuracy == result.scores.accuracy
    assert without.metrics["models"]["this model"]["reliability"]["temperature"] is None


def test_a_model_with_held_out_leaves_is_calibrated_when_it_is_trained(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(
        "ufgvc.experiments.calibrate.ray_session"
    )  # one model scores a few leaves: nothing for a cluster to do
    model = trained(data, tmp_path, "holdout")
    found = load_model(model).calibration
    assert found is not None
    assert (found.num_images, found.source, found.threshold) == (6, "holdout, the leaves that chose the epoch", None)
    again = calibrate_model(data, model, CalibrateSettings(), Context(runs=str(tmp_path), tracking=OFF)).calibration
    assert not list(Path(model).parent.glob("calibration/*")), "its own leaves are enough"
    assert again.temperature == pytest.approx(found.temperature, rel=1e-3)
    assert again.threshold is not None
    assert again.threshold > 0


@pytest.mark.parametrize("validation", ["holdout", pytest.param("kfold", marks=pytest.mark.slow)])
def test_a_model_with_held_out_leaves_is_evaluated_and_registered(data: str, tmp_path: Path, validation: str) -> None:
    tracking = TrackingSettings(uri=f"sqlite:///{tmp_path}/mlflow.db")
    model = trained(data, tmp_path, validation, tracking)
    result = evaluate(
        data,
        model,
        {},
        SMALL.model_copy(update={"register_version": True}),
        Context(runs=str(tmp_path), tracking=tracking),
    )
    assert result.version == "1"
    name = "ufgvc-colours"
    assert "No leaf is called unknown" in read_card(
        find_version(f"models:/{name}/1", name, Context(tracking=tracking)), Context(tracking=tracking)
    )


def test_a_card_that_fails_leaves_nothing_registered(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = TrackingSettings(uri=f"sqlite:///{tmp_path}/mlflow.db")
    model = trained(data, tmp_path, tracking=tracking)

    def fail(*_: object) -> None:
        raise TypeError("a figure is missing")

    monkeypatch.setattr("ufgvc.evaluation.model_card._figures", fail)
    with pytest.raises(TypeError, match="a figure is missing"):
        evaluate(data, model, {}, SMALL, Context(runs=str(tmp_path), tracking=tracking))
    assert list_versions("ufgvc-colours", Context(tracking=tracking)) == []


def test_another_state_of_the_data_is_refused(calibrated: str, data: str, tmp_path: Path) -> None:
    other = open_store(str(tmp_path / "other"))
    other.upload(Path(data))
    other.write_json("dataset.json", other.read_json("dataset.json") | {"fingerprint": "0" * 64})
    with pytest.raises(UserError, match="was trained on"):
        calibrate_model(other.uri, calibrated, CalibrateSettings(), Context(runs=str(tmp_path), tracking=OFF))
    with pytest.raises(UserError, match="is in no run folder"):
        calibrate_model(data, str(tmp_path / "other"), CalibrateSettings(), Context(runs=str(tmp_path), tracking=OFF))


def test_a_registered_version_keeps_its_files_and_the_next_is_calibrated(data: str, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    tracking = TrackingSettings(uri=f"sqlite:///{tmp_path}/mlflow.db")
    model = trained(data, runs, tracking=tracking)
    assert register(model, "ufgvc-colours", {}, Context(runs=str(runs), tracking=tracking)) == "1"
    fitted = Calibration(temperature=1.5, threshold=0.3, coverage=0.95, num_images=18, source="a test")
    reference = fit_feature_subspace(np.random.default_rng(0).random((9, 512)))
    write_calibration(
        open_store(str(Path(model).parent)), fitted, reference, "colours", Context(runs=str(runs), tracking=tracking)
    )
    assert register(model, "ufgvc-colours", {}, Context(runs=str(runs), tracking=tracking)) == "2"
    assert register(model, "ufgvc-colours", {}, Context(runs=str(runs), tracking=tracking)) == "2"
    assert load_model("models:/ufgvc-colours/1", Context(runs=str(runs), tracking=tracking)).calibration is None
    assert (
        load_model("models:/ufgvc-colours@challenger", Context(runs=str(runs), tracking=tracking)).calibration == fitted
    )

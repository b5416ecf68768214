"""Evaluation and prediction of tiny models on tiny leaves: real Ray, real files, a real S3 server."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.factories import THREE, coloured, three_cultivars
from ufgvc import methods
from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store
from ufgvc.data.dataset import open_dataset
from ufgvc.evaluation.predict import predict
from ufgvc.evaluation.settings import EvaluateSettings, PredictSettings
from ufgvc.experiments.evaluate import evaluate
from ufgvc.models.format import save_model
from ufgvc.models.model import load_model
from ufgvc.tracking.context import Context
from ufgvc.tracking.settings import TrackingSettings

OFF = TrackingSettings(uri="off")
SMALL = EvaluateSettings(cam_leaves=2, region_leaves=2, batch_size=4)


def make_model(
    folder: Path,
    data: str,
    method: str = "resnet50",
    fingerprint: str | None = None,
    classes: tuple[str, ...] = THREE,
    seed: int = 0,
) -> str:
    import torch

    torch.manual_seed(seed)
    made = methods.build(method, len(classes), init="none", backbone="resnet18")
    made.net.eval()
    # A network that nobody trained names one cultivar for all; a large head makes the answers differ.
    torch.nn.init.normal_(made.net.classifier.weight, std=5.0)
    fingerprint = fingerprint or open_dataset(data).fingerprint
    save_model(folder, made, classes, {"resize": 40, "size": 32}, {"data": fingerprint}, {})
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("data") / "tiny")
    three_cultivars(uri)
    return uri


@pytest.fixture(scope="module")
def run(data: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run folder as training leaves it."""
    run = tmp_path_factory.mktemp("runs") / "tiny" / "resnet50" / "0123456789ab"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("seed: 7\ntrain: {epochs: 2, batch_size: 4, validation: test}\n")
    records = [{"epoch": e, "loss": 1.0 / e, "loss_classification": 1.0 / e, "train_accuracy": 0.4 * e} for e in (1, 2)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    make_model(run / "model", data)
    return str(run)


def test_every_test_leaf_is_scored_once_and_the_report_tells_it(run: str, data: str, tmp_path: Path) -> None:
    other = make_model(tmp_path / "other", data, "mask_guided", seed=3)
    result = evaluate(data, f"{run}/model", {"masks": other}, SMALL, Context(runs=str(tmp_path), tracking=OFF))
    model = load_model(f"{run}/model", Context(runs=str(tmp_path), tracking=OFF))
    right = 0
    table = pq.read_table(Path(run) / "report" / "predictions.parquet").to_pylist()
    for row in table:
        number = int(row["image_id"].split("-")[1])
        image = np.asarray(Image.open(io.BytesIO(coloured(number % 3, number + 100))))
        logits = model.logits([image])[0]
        assert row["this model: predicted"] == THREE[int(logits.argmax())]
        assert row["this model: right"] == (int(logits.argmax()) == number % 3)
        right += row["this model: right"]
    assert (result.scores.accuracy.k, result.scores.accuracy.n) == (right, 9)
    assert len({row["image_id"] for row in table}) == 9
    assert len({row["this model: predicted"] for row in table}) > 1, "a model that always says the same proves little"
    found = json.loads((Path(run) / "report" / "metrics.json").read_text())
    assert found["models"]["this model"]["accuracy"]["k"] == right
    assert set(found["models"]["masks"]["mcnemar"]) == {"gains", "losses", "p"}
    html = (Path(run) / "report" / "report.html").read_text()
    assert f"{right} of 9 test leaves" in html
    assert open_dataset(data).fingerprint in html
    assert "selected on test" in html
    assert "Class activation maps" in html
    assert "Training" in html
    assert (Path(run) / "report" / "cam.png").read_bytes().startswith(b"\x89PNG")


def test_actors_give_the_same_numbers(run: str, data: str, tmp_path: Path, ray_local: None) -> None:
    plain = SMALL.model_copy(update={"cam_leaves": 0, "region_leaves": 0})
    here = evaluate(data, f"{run}/model", {}, plain, Context(runs=str(tmp_path), tracking=OFF))
    first = pq.read_table(Path(run) / "report" / "predictions.parquet")
    there = evaluate(
        data, f"{run}/model", {}, plain.model_copy(update={"max_actors": 2}), Context(runs=str(tmp_path), tracking=OFF)
    )
    second = pq.read_table(Path(run) / "report" / "predictions.parquet")
    assert first["image_id"] == second["image_id"]
    assert first["this model: predicted"] == second["this model: predicted"]
    assert here.scores.accuracy == there.scores.accuracy


def test_a_model_for_other_cultivars_is_refused(data: str, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", data, classes=("amber", "birch", "oak"))
    with pytest.raises(UserError, match="oak"):
        evaluate(data, model, {}, SMALL, Context(runs=str(tmp_path), tracking=OFF))


def test_a_model_of_another_version_of_the_data_is_marked(data: str, tmp_path: Path) -> None:
    model = make_model(tmp_path / "loose", data, fingerprint="0" * 64)
    result = evaluate(data, model, {}, SMALL, Context(runs=str(tmp_path), tracking=OFF))
    assert "trained on another version of the data set" in open_store(result.folder).read_text("report.html")
    assert Path(result.folder).is_relative_to(tmp_path / "tiny" / "evaluate")


def test_bad_photographs_are_listed_and_not_fatal(run: str, tmp_path: Path) -> None:
    source = tmp_path / "photographs"
    (source / "field, 2").mkdir(parents=True)
    names = {"a.png": (0, "PNG"), "field, 2/b.jpg": (1, "JPEG"), "field, 2/c.webp": (2, "WEBP"), "d.tif": (0, "TIFF")}
    for place, (name, (label, kind)) in enumerate(names.items()):
        (source / name).write_bytes(coloured(label, place, kind=kind))
    (source / "empty.jpg").write_bytes(b"")
    (source / "cut.png").write_bytes(coloured(1, 9)[:300])
    (source / "notes.txt").write_text("not a photograph")
    result = predict(
        str(source), f"{run}/model", str(tmp_path / "out"), PredictSettings(batch_size=2), Context(tracking=OFF)
    )
    assert (result.predicted, result.rejected) == (4, 3)
    assert "the probabilities are not calibrated and no leaf can be called unknown" in result.summary()
    with open(result.csv, newline="", encoding="utf-8") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(names)
    model = load_model(f"{run}/model", Context(runs=str(tmp_path), tracking=OFF))
    for name, row in rows.items():
        image = np.asarray(Image.open(source / name).convert("RGB"))
        exact = np.exp(model.logits([image])[0].astype(np.float64))
        exact /= exact.sum()
        assert row["cultivar"] == row["top1_cultivar"] == THREE[int(exact.argmax())]
        assert float(row["probability"]) == pytest.approx(exact.max(), abs=1e-4)
        assert sum(float(row[f"top{i}_probability"]) for i in (1, 2, 3)) == pytest.approx(1, abs=1e-5)
    with open(result.rejected_csv, newline="", encoding="utf-8") as file:
        rejected = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert set(rejected) == {"empty.jpg", "cut.png", "notes.txt"}
    assert all(rejected.values())
    assert sorted(pq.read_table(list(result.parquet))["path"].to_pylist()) == sorted(names)


def test_photographs_come_from_a_bucket_and_predictions_go_to_one(run: str, s3: str, ray_local: None) -> None:
    """By an actor, and then in this process, with the same predictions."""
    store = open_store(f"{s3}/in")
    for place in range(5):
        store.write_bytes(f"deep/{place}.png", coloured(place % 3, place))
    settings = PredictSettings(batch_size=2, rows_per_file=2, max_actors=1)
    result = predict(f"{s3}/in", f"{run}/model", f"{s3}/out", settings, Context(tracking=OFF))
    assert (result.predicted, result.rejected, len(result.parquet)) == (5, 0, 3)

    def rows() -> list[dict[str, str]]:
        text = open_store(f"{s3}/out").read_text("predictions.csv")
        return sorted(csv.DictReader(io.StringIO(text)), key=lambda row: row["path"])

    by_actors = rows()
    assert [row["path"] for row in by_actors] == [f"deep/{i}.png" for i in range(5)]
    again = predict(f"{s3}/in", f"{run}/model", f"{s3}/out", PredictSettings(batch_size=2), Context(tracking=OFF))
    assert open_store(f"{s3}/out").list("predictions") == ["predictions/part-00000.parquet"]
    assert again.predicted == 5
    for here, there in zip(rows(), by_actors, strict=True):
        assert here["cultivar"] == there["cultivar"]
        assert float(here["probability"]) == pytest.approx(float(there["probability"]), abs=1e-5)


@pytest.mark.parametrize("content", [{}, {"readme.md": b"x"}])
def test_a_source_without_photographs_is_a_mistake_of_the_user(
    run: str, tmp_path: Path, content: dict[str, bytes]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name, data in content.items():
        (source / name).write_bytes(data)
    with pytest.raises(UserError, match=r"photograph|empty"):
        predict(str(source), f"{run}/model", str(tmp_path / "out"), context=Context(tracking=OFF))


def test_predictions_do_not_go_among_the_photographs(run: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(coloured(0, 0))
    with pytest.raises(UserError, match="among the photographs"):
        predict(str(tmp_path), f"{run}/model", str(tmp_path), context=Context(tracking=OFF))

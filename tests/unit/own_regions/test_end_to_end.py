"""From photographs with boxes of three regions of the user's own to masks, trainings and predictions, without Ray."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.own_regions.leaves import OWN, ingested, photographs, write_coco
from tests.unit.own_regions.test_data import masks_of
from ufgvc.core.errors import UserError
from ufgvc.data.dataset import Dataset
from ufgvc.data.ingest import IngestSettings, ingest
from ufgvc.evaluation.predict import predict
from ufgvc.evaluation.settings import PredictSettings
from ufgvc.models.model import load_model
from ufgvc.regions.settings import SuggestSettings
from ufgvc.regions.suggest import suggest
from ufgvc.tracking.context import Context
from ufgvc.tracking.settings import TrackingSettings
from ufgvc.training.run import TrainResult, train
from ufgvc.training.settings import TrainSettings

TINY: dict[str, Any] = {"init": "none", "batch_size": 4, "resize": 40, "crop": 32, "device": "cpu"}


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """`import ray` fails, and nothing names a cluster."""
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """With masks of kind box."""
    made = ingested(tmp_path_factory.mktemp("own"))
    masks_of(made)
    return made


def trained(dataset: Dataset, runs: Path, method: str, options: dict[str, Any], **changes: Any) -> TrainResult:
    context = Context(runs=str(runs), tracking=TrackingSettings(uri="off"))
    options = {"backbone": "shufflenet_v2_x0_5", **options}
    return train(dataset.store.uri, method, options, TrainSettings(**(TINY | changes)), context)


def test_a_mask_guided_training_and_its_predictions(dataset: Dataset, tmp_path: Path) -> None:
    fusion = {"base": 0.4, "regions": {"base": 0.2}}
    result = trained(dataset, tmp_path / "runs", "mask_guided", {"fusion": fusion}, epochs=2)
    rows = [json.loads(line) for line in (Path(result.run) / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    for row in rows:
        parts = [row[f"loss_{name}"] for name in ("classification", *OWN)]
        assert min(parts) > 0
        assert row["loss"] == pytest.approx(parts[0] + 0.1 * sum(parts[1:]))
    loaded = load_model(result.model)
    options = loaded.method.options
    assert options["regions"] == list(OWN), "all regions of the data set"
    total = 0.4 + 0.2 + 2 * 0.7 / 3
    assert options["fusion"]["base"] == pytest.approx(0.4 / total)
    assert options["fusion"]["regions"]["base"] == pytest.approx(0.2 / total)
    source = Path(dataset.store.uri).parent / "photographs/test"
    out, settings = tmp_path / "predictions", PredictSettings(device="cpu")
    made = predict(str(source), result.model, str(out), settings, Context(tracking=TrackingSettings(uri="off")))
    assert made.summary()
    found = json.loads((out / "predictions.json").read_text())
    assert len(found) == 6
    assert {row["cultivar"] for row in found} <= {"a", "b"}


def test_region_tokens_and_a_probe_train_on_some_of_the_regions(dataset: Dataset, tmp_path: Path) -> None:
    tokens = trained(dataset, tmp_path, "region_tokens", {"regions": ["base", "midrib"]}, epochs=1)
    assert load_model(tokens.model).method.regions == ("base", "midrib")
    assert {"loss_base", "loss_midrib"} <= tokens.metrics.keys()
    assert "loss_margin" not in tokens.metrics
    probe = load_model(trained(dataset, tmp_path, "linear_probe", {"regions": ["margin"]}, resize=32).model)
    assert probe.method.net.finder.weight.abs().sum() > 0


def test_a_region_that_the_data_set_does_not_have_is_one_message(dataset: Dataset, tmp_path: Path) -> None:
    for method in ("mask_guided", "region_tokens", "linear_probe"):
        with pytest.raises(
            UserError, match=f"{method} asks for vein, the regions of the data set are midrib"
        ) as caught:
            trained(dataset, tmp_path, method, {"regions": ["vein", "base"]}, epochs=1)
        assert "--options.regions midrib margin base" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_the_first_leaves_are_suggested_without_boxes(tmp_path: Path) -> None:
    """The detector of synthetic leaves knows none of the regions, so it is neither trained nor asked."""
    source, boxes = tmp_path / "photographs", tmp_path / "boxes.json"
    photographs(source)
    write_coco(source, boxes, annotated=2)
    data = ingest(str(source), str(tmp_path / "data"), boxes=str(boxes), settings=IngestSettings(regions=OWN))
    settings, context = SuggestSettings(count=2, device="cpu"), Context(runs=str(tmp_path / "runs"))
    result = suggest(data.store.uri, str(tmp_path / "next"), settings, None, context)
    assert (len(result.leaves), result.boxes, result.detector) == (2, 0, "")
    assert "Draw boxes in LabelImg" in result.summary()
    assert (tmp_path / "next/yolo/classes.txt").read_text() == "midrib\nmargin\nbase\n"
    categories = json.loads((tmp_path / "next/coco.json").read_text())["categories"]
    assert [each["name"] for each in categories] == list(OWN)

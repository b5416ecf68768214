"""The detector of three regions of the user's own: its training, report and masks, and the boxes that it proposes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.test_regions import OFF
from tests.unit.own_regions.leaves import OWN, ingested, write_coco
from ufgvc.core.errors import UserError
from ufgvc.data.dataset import Dataset, read_manifest, read_shard
from ufgvc.data.ingest import IngestSettings, ingest
from ufgvc.regions.mask_dataset import mask
from ufgvc.regions.settings import DetectSettings, MaskSettings, SuggestSettings
from ufgvc.regions.suggest import suggest
from ufgvc.regions.train_detector import DetectResult, detect
from ufgvc.tracking.context import Context

TINY = DetectSettings(image_size=64, epochs=1, batch_size=4, init="none", device="cpu")


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return Context(runs=str(tmp_path_factory.mktemp("runs")), tracking=OFF)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return ingested(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def detector(dataset: Dataset, context: Context) -> DetectResult:
    return detect(dataset.store.uri, TINY, context)


def test_the_detector_learns_all_regions(detector: DetectResult) -> None:
    assert list(detector.metrics["map50_by_region"]) == list(OWN)
    description = json.loads((Path(detector.model) / "model.json").read_text())
    assert description["regions"] == list(OWN)
    assert description["max_boxes"] == dict.fromkeys(OWN, 1)
    table = (Path(detector.run) / "report/table1.md").read_text()
    assert "| midrib | margin | base |" in table
    assert (Path(detector.run) / "report/figure3.png").stat().st_size > 10_000


def test_its_boxes_become_masks(dataset: Dataset, detector: DetectResult, context: Context) -> None:
    settings = MaskSettings(confidence=0.001, min_found=0, device="cpu")
    mask(dataset.store.uri, settings, context=context)
    found = read_shard(dataset, "regions/detected", "train-00000")["boxes"].to_pylist()
    assert {box["region"] for boxes in found for box in boxes} <= set(OWN)
    assert read_shard(dataset, "masks/box", "train-00000").schema.names == ["image_id", *OWN]
    assert read_manifest(dataset, "masks/box").extra["regions"] == list(OWN)


def test_a_data_set_of_other_regions_does_not_take_it(
    detector: DetectResult, dataset: Dataset, context: Context, tmp_path: Path
) -> None:
    source = Path(dataset.store.uri).parent / "photographs"
    boxes = write_coco(source, tmp_path / "boxes.json", without=("base",), annotated=4)
    fewer = IngestSettings(regions=("midrib", "margin"))
    data = ingest(str(source), str(tmp_path / "data"), dataset.name, boxes=boxes, settings=fewer)
    with pytest.raises(UserError, match="finds midrib, margin and base, the regions of the data set are midrib and"):
        mask(data.store.uri, MaskSettings(device="cpu"), context=context)
    settings = SuggestSettings(count=2, device="cpu")
    with pytest.raises(UserError, match="finds midrib, margin and base"):
        suggest(data.store.uri, str(tmp_path / "next"), settings, detector.model, context)
    assert suggest(data.store.uri, str(tmp_path / "next"), settings, None, context).detector == ""

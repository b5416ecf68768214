"""predictions.html: why each photograph was named so, in a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.integration.browser import PHONE, check_accessible, fits, open_page
from tests.integration.coloured_leaves import COLOURS, OFF, TRAINED, leaf, trained
from ufgvc.core.storage import open_store
from ufgvc.data.ingest import ingest
from ufgvc.evaluation.predict import predict
from ufgvc.evaluation.settings import PredictResult, PredictSettings
from ufgvc.models.calibration import Calibration, fit_feature_subspace
from ufgvc.models.format import MODEL, SUBSPACE
from ufgvc.models.model import ExportSettings, export, load_model
from ufgvc.reports import predictions_page
from ufgvc.reports.predictions_page import PICTURES, write_predictions_page
from ufgvc.tracking.context import Context

HERE = PredictSettings(max_actors=0, batch_size=8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> Iterator[str]:
    """Of three cultivars by colour, six training leaves each; half of the photographs below are unknown to it."""
    root = tmp_path_factory.mktemp("leaves")
    for split, each in (("train", 6), ("test", 2)):
        for name in COLOURS:
            (root / split / name).mkdir(parents=True)
            for number in range(each):
                (root / split / name / f"{number}.png").write_bytes(leaf(name, number + 100 * (split == "test")))
    data = str(tmp_path_factory.mktemp("data") / "colours")
    ingest(str(root), data)
    run = open_store(trained(data, tmp_path_factory.mktemp("runs")))
    TRAINED.clear()
    loaded = load_model(run.uri)
    assert loaded.leaves is not None
    features = loaded.leaves.embeddings
    run.write_bytes(SUBSPACE, fit_feature_subspace(features).to_bytes())
    calibration = Calibration(temperature=1.5, threshold=0.0, ood_median=0.01, num_images=18, source="a test")
    run.write_json(MODEL, run.read_json(MODEL) | {"calibration": calibration.model_dump()})
    return run.uri


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("new")
    for number in range(30):
        name = tuple(COLOURS)[number % 3]
        (folder / f"{number} <i>{name}.png").write_bytes(leaf(name, 900 + number, 40))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no photograph")
    return str(folder)


@pytest.fixture(scope="module")
def half_known(model: str, photographs: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The model with a threshold that half of the photographs exceed."""
    copy = open_store(str(tmp_path_factory.mktemp("half") / "model"))
    copy.upload(Path(model))
    result = predict(photographs, copy.uri, str(tmp_path_factory.mktemp("out")), HERE, Context(tracking=OFF))
    scores = [row["ood_score"] for row in read(result)]
    info = copy.read_json(MODEL)
    info["calibration"]["threshold"] = float(np.median(scores))
    copy.write_json(MODEL, info)
    return copy.uri


@pytest.fixture(scope="module")
def result(half_known: str, photographs: str, tmp_path_factory: pytest.TempPathFactory) -> PredictResult:
    out = str(tmp_path_factory.mktemp("page"))
    return predict(photographs, half_known, out, HERE, Context(tracking=OFF), write_predictions_page)


def read(result: PredictResult) -> list[dict]:
    return json.loads(Path(result.json).read_text(encoding="utf-8"))


def test_the_model_carries_its_training_leaves_and_their_number(model: str) -> None:
    loaded = load_model(model)
    assert loaded.leaves is not None
    assert np.bincount(loaded.leaves.labels).tolist() == loaded.info["class_counts"] == [6, 6, 6]
    assert all(thumbnail.startswith(b"\xff\xd8") for thumbnail in loaded.leaves.thumbnails)


def test_json_says_the_same_as_csv_and_why(result: PredictResult, half_known: str) -> None:
    rows = read(result)
    assert len(rows) == result.predicted == 30
    assert sum(not row["known"] for row in rows) == result.unknown > 0
    threshold = load_model(half_known).calibration.threshold
    for row in rows:
        assert row["known"] is (row["ood_score"] <= threshold)
        assert (row["why_unknown"] is None) is row["known"]
        assert row["known"] or f"{row['ood_score']:.3f} is above {threshold:.3f}" in row["why_unknown"]
        assert len(row["nearest"]) == 5
        assert [each["distance"] for each in row["nearest"]] == sorted(each["distance"] for each in row["nearest"])
        assert sum(each["probability"] for each in row["candidates"]) == pytest.approx(1, abs=1e-4)
    assert result.drift is not None
    assert result.drift.summary().splitlines() == [result.summary().splitlines()[-1]]


def test_the_page_sorts_filters_turns_and_searches(result: PredictResult) -> None:
    rows = read(result)
    unknown = {row["path"] for row in rows if not row["known"]}
    assert result.page is not None
    with open_page(Path(result.page).as_uri()) as page:
        paths = page.locator(".card .path")
        assert paths.count() == 24
        assert set(paths.all_inner_texts()[: len(unknown)]) == unknown, "the most doubtful come first"
        assert page.locator(".card").first.locator(".nearest img").count() == 5
        assert "is above" in page.locator(".card .why").first.inner_text()
        assert page.locator(".card img.leaf").first.evaluate("image => image.naturalWidth") == 2 * 192
        page.get_by_role("button", name="Next").click()
        assert paths.count() == 6
        assert page.get_by_role("button", name="Next").is_disabled()
        page.get_by_label("Cultivar").select_option("unknown")
        assert page.get_by_role("status").inner_text() == f"{len(unknown)} of 30 photographs"
        page.get_by_label("Cultivar").select_option("")
        page.get_by_label("File name contains").fill("29 <I>")
        assert paths.all_inner_texts() == [next(row["path"] for row in rows if row["path"].startswith("29 "))]
        page.get_by_label("File name contains").fill("")
        page.get_by_label("Order").select_option("path")
        assert [text.split(" ")[0] for text in paths.all_inner_texts()[:4]] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_accessible_and_fits_a_telephone(result: PredictResult, dark: bool) -> None:
    assert result.page is not None
    with open_page(Path(result.page).as_uri(), PHONE, dark) as page:
        assert page.locator(".card").count() == 24
        assert fits(page)
        check_accessible(page)


def test_pictures_of_many_photographs_lie_next_to_the_page(
    half_known: str, photographs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The most doubtful ones only; pictures of an earlier prediction go."""
    monkeypatch.setattr(predictions_page, "MAX_INSIDE", 10)
    stale = tmp_path / PICTURES / "000099.jpg"
    stale.parent.mkdir()
    stale.write_bytes(b"old")
    few = HERE.model_copy(update={"page": 12})
    result = predict(photographs, half_known, str(tmp_path), few, Context(tracking=OFF), write_predictions_page)
    assert not stale.exists()
    assert len(list(stale.parent.glob("0*.jpg"))) == 12
    assert result.page is not None
    text = Path(result.page).read_text(encoding="utf-8")
    assert "the 12 most doubtful of 30 photographs" in text
    assert "data:image" not in text
    with open_page(Path(result.page).as_uri()) as page:
        assert page.locator(".card").count() == 12
        page.wait_for_function("[...document.images].slice(0, 6).every(each => each.naturalWidth > 0)")


@pytest.mark.slow
def test_an_exported_model_shows_the_same_neighbours_without_maps(
    half_known: str, photographs: str, tmp_path: Path, result: PredictResult
) -> None:
    pytest.importorskip("onnxscript")
    export(load_model(half_known), str(tmp_path / "onnx"), ExportSettings())
    out = str(tmp_path / "out")
    onnx = predict(photographs, str(tmp_path / "onnx"), out, HERE, Context(tracking=OFF), write_predictions_page)
    wanted = {row["path"]: row["nearest"][0]["image_id"] for row in read(result)}
    assert {row["path"]: row["nearest"][0]["image_id"] for row in read(onnx)} == wanted
    assert onnx.page is not None
    data = Path(onnx.page).read_text(encoding="utf-8").split('id="gallery-data">')[1].split("</script>")[0]
    assert not any(each["has_map"] for each in json.loads(data)["leaves"])


def test_a_model_without_training_leaves_says_so(half_known: str, photographs: str, tmp_path: Path) -> None:
    copy = open_store(str(tmp_path / "model"))
    copy.upload(Path(half_known))
    copy.delete("training_leaves.parquet")
    out = str(tmp_path / "out")
    result = predict(photographs, copy.uri, out, HERE, Context(tracking=OFF), write_predictions_page)
    assert {len(row["nearest"]) for row in read(result)} == {0}
    assert result.page is not None
    assert "carries no training leaves" in Path(result.page).read_text(encoding="utf-8")

"""`suggest` on a tiny data set: with a detector of its own and with that of synthetic leaves; boxes are read back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.command_line import ufgvc
from tests.integration.test_regions import OFF, REGIONS, TINY, leaf
from ufgvc.core.errors import UserError
from ufgvc.data.dataset import open_dataset, read_index
from ufgvc.data.ingest import IngestSettings, ingest
from ufgvc.regions.settings import DetectSettings, SuggestSettings, SyntheticInitSettings
from ufgvc.regions.suggest import annotated_ids, suggest
from ufgvc.regions.train_detector import detect
from ufgvc.tracking.context import Context

PRETRAIN = SyntheticInitSettings(leaves=8, image_size=64, epochs=1)
FEW = SuggestSettings(count=3, confidence=0.001, pretrain=PRETRAIN, device="cpu")
ANYWAY = IngestSettings(on_duplicate="warn")  # the leaves are all alike


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen leaves of two cultivars in folders; six of the twelve training leaves have boxes."""
    source = tmp_path_factory.mktemp("source")
    for k in range(16):
        image, boxes = leaf(k)
        name = f"{'train' if k < 12 else 'test'}/{'ab'[k % 2]}/leaf {k}"
        for folder in ("photographs", "labels"):
            (source / folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(source / "photographs" / f"{name}.png")
        lines = [
            f"{REGIONS.index(b.region)} {(b.x0 + b.x1) / 192} {(b.y0 + b.y1) / 160} {b.width / 96} {b.height / 80}\n"
            for b in boxes
        ]
        if k < 6:
            (source / "labels" / f"{name}.txt").write_text("".join(lines))
    (source / "labels" / "classes.txt").write_text("vein\ncontour\n")
    return source


@pytest.fixture(scope="module")
def data(source: Path, tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> str:
    target = str(tmp_path_factory.mktemp("data") / "set")
    ingest(str(source / "photographs"), target, boxes=str(source / "labels"), name="tiny", settings=ANYWAY)
    return target


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return Context(runs=str(tmp_path_factory.mktemp("runs")), tracking=OFF)


def test_leaves_without_boxes_are_suggested_and_their_boxes_can_be_ingested(
    data: str, source: Path, context: Context, tmp_path: Path
) -> None:
    detect(data, TINY, context)
    result = suggest(data, str(tmp_path / "next"), FEW, None, context)
    without = set(read_index(open_dataset(data), "train")["image_id"].to_pylist()) - annotated_ids(open_dataset(data))
    assert len(result.leaves) == 3
    assert set(result.leaves) <= without
    assert (result.looked_at, result.annotated) == (6, 6)
    assert "runs" in result.detector
    assert result.boxes > 0
    written = {path.relative_to(tmp_path / "next/images").with_suffix("").as_posix() for path in
               (tmp_path / "next/images").rglob("*.jpg")}  # fmt: skip
    assert written == set(result.leaves)
    everything = tmp_path / "labels"
    shutil.copytree(source / "labels", everything)
    shutil.copytree(tmp_path / "next" / "yolo", everything, dirs_exist_ok=True)
    again = str(tmp_path / "again")
    ingest(str(source / "photographs"), again, boxes=str(everything), name="tiny", settings=ANYWAY)
    assert annotated_ids(open_dataset(again)) == annotated_ids(open_dataset(data)) | set(result.leaves)


def test_the_first_leaves_are_proposed_by_the_detector_of_synthetic_leaves(
    source: Path, context: Context, tmp_path: Path
) -> None:
    bare = str(tmp_path / "bare")
    ingest(str(source / "photographs"), bare, name="bare", settings=ANYWAY)
    result = suggest(bare, str(tmp_path / "next"), FEW, None, context)
    assert (len(result.leaves), result.looked_at, result.annotated) == (3, 12, 0)
    assert result.detector == "the detector of synthetic leaves"
    assert suggest(bare, str(tmp_path / "next"), FEW, None, context).leaves == result.leaves


def test_the_detector_of_synthetic_leaves_is_measured_as_it_is(data: str, context: Context) -> None:
    settings = DetectSettings(num_annotated=0, pretrain=PRETRAIN, confidence=0.001, device="cpu")
    result = detect(data, settings, context)
    assert result.metrics["num_trained"] == 0
    assert result.metrics["num_evaluated"] == 6
    assert result.metrics["evaluated_on"] == "annotated training leaves"
    assert 0 <= result.metrics["map50"] <= 1


def test_where_every_leaf_has_boxes_there_is_nothing_to_suggest(
    data: str, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = set(read_index(open_dataset(data), "train")["image_id"].to_pylist())
    monkeypatch.setattr("ufgvc.regions.suggest.annotated_ids", lambda _: everything)
    with pytest.raises(UserError, match="every training leaf has boxes already"):
        suggest(data, str(tmp_path / "next"), FEW, None, context)


def test_the_command_prints_what_to_do_next(data: str, context: Context, tmp_path: Path) -> None:
    flags = (
        "--data",
        data,
        "--out",
        tmp_path / "next",
        "--runs",
        context.runs,
        "--count",
        "2",
        "--tracking.uri",
        "off",
    )
    ended = ufgvc("suggest", *flags)
    assert ended.code == 0, ended.text
    assert "2 of 6 leaves to annotate next (6 have boxes)" in ended.out
    assert "ufgvc ingest --boxes" in ended.out
    ended = ufgvc("suggest", *flags, "--detector", tmp_path / "nothing")
    assert ended.code == 2, ended.text
    assert "Traceback" not in ended.text

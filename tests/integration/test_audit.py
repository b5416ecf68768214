"""`ufgvc audit` from photographs to its page: planted faults are found, with and without a model."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.command_line import Ended, ufgvc
from tests.planted_faults import COPIES, Photo, ingested_photos, own_camera, photos_of, resaved_copies
from ufgvc import methods
from ufgvc.data.dataset import open_dataset
from ufgvc.evaluation.audit import files
from ufgvc.models.format import save_model
from ufgvc.synthetic import SynthSettings, synthesize

QUICK = ("--side", "96", "--folds", "3", "--repeats", "1", "--tracking.uri", "off")


def audited(data: Path | str, out: Path, *more: str) -> tuple[Ended, dict[str, list[dict[str, str]]]]:
    """What the command printed, and the rows of its CSV files."""
    ended = ufgvc("audit", "--data", data, "--out", out, *QUICK, *more)
    assert ended.code == 0, ended.text
    return ended, {path.name: list(csv.DictReader(path.open(encoding="utf-8"))) for path in out.glob("*.csv")}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory, ray_local: None) -> list[Photo]:
    """Drawn leaves of four cultivars, 12 of each."""
    from ufgvc.data.ingest import ingest

    folder = tmp_path_factory.mktemp("clean")
    settings = SynthSettings(cultivars=4, train_per_cultivar=8, test_per_cultivar=4, size=128, difficulty=0.3)
    source = synthesize(folder / "source", settings, seed=5)
    ingest(str(source), str(folder / "data"), name="drawn")
    return photos_of(str(folder / "data"))


@pytest.fixture(scope="module")
def faulty(clean: list[Photo], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str]]:
    """The leaves with 20 re-saved copies, 5 % swapped labels, and one camera a cultivar; the names of the swapped."""
    folder = tmp_path_factory.mktemp("faulty")
    cultivars = sorted({photo.cultivar for photo in clean})
    photos = list(clean)
    swapped = np.random.default_rng(3).choice(len(photos), round(0.05 * len(photos)), replace=False)
    for row in swapped:
        other = cultivars[(cultivars.index(photos[row].cultivar) + 2) % 4]
        photos[row] = replace(photos[row], cultivar=other)
    others = [photo for row, photo in enumerate(clean) if row not in swapped]
    ingested_photos([*own_camera(photos), *resaved_copies(own_camera(others), COPIES, 1)], folder)
    return folder / "data", {Path(photos[row].name).stem for row in swapped}


def test_it_writes_a_page_and_its_tables(small_dataset: str, tmp_path: Path) -> None:
    ended, tables = audited(small_dataset, tmp_path / "out")
    assert len(tables[files.LEAVES]) == 21
    assert len(tables[files.CULTIVARS]) == 3
    assert tables[files.COPIES] == []
    assert "out of fold: " in ended.out
    html = (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")
    assert html.count("<title>") == 21 + 1


@pytest.mark.slow  # each kind of fault has a fast test in tests/unit/audit
def test_planted_faults_are_found(faulty: tuple[Path, set[str]], tmp_path: Path) -> None:
    data, swapped = faulty
    ended, tables = audited(data, tmp_path / "out")
    assert set(tables) == {
        files.LEAVES,
        files.CULTIVARS,
        files.COPIES,
        files.MISTAKES,
        files.PAIRS,
        files.CONFOUNDERS,
        files.CURVE,
    }
    groups: dict[str, list[str]] = {}
    for row in tables[files.COPIES]:
        groups.setdefault(row["copies"], []).append(Path(row["image_id"]).stem)
    made = {tuple(sorted(stems)) for stems in groups.values()}
    stems = [Path(row["image_id"]).stem for row in tables[files.LEAVES]]
    planted = {tuple(sorted((stem, stem.split("-of-")[1]))) for stem in stems if stem.startswith("copy-")}
    assert len(planted) == COPIES
    assert made == planted
    kinds = {row["kind"] for row in tables[files.COPIES]}
    assert kinds == {"under several cultivars", "in train and test", "within one cultivar and split"}
    suspects = {Path(row["image_id"]).stem for row in tables[files.MISTAKES]}
    assert swapped <= suspects
    others = {stem for stem in suspects - swapped if not stem.startswith("copy-")}
    assert len(others) <= 2, "suspects are swapped labels, or copies under another cultivar"
    camera = {row["sees"]: row for row in tables[files.CONFOUNDERS]}
    # The backgrounds of drawn leaves differ more than the tints that were planted.
    assert [camera[sees]["above_chance"] for sees in ("camera facts only", "camera facts and bytes")] == ["true"] * 2
    html = (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")
    assert "Camera facts only: " in html
    assert html.count("<title>") == len(stems) + 1
    assert f"{len(suspects)}; photographs with a flag" in ended.out.replace("likely label mistakes: ", "")
    assert "cultivars can be named above chance from: camera facts only" in ended.out


@pytest.mark.slow
def test_leaves_without_a_fault(clean: list[Photo], tmp_path: Path) -> None:
    folder = tmp_path / "clean"
    ingested_photos(clean, folder)
    _, tables = audited(folder / "data", tmp_path / "out")
    assert tables[files.COPIES] == []
    assert len(tables[files.MISTAKES]) <= 2
    camera = {row["sees"]: row["above_chance"] for row in tables[files.CONFOUNDERS]}
    assert camera["camera facts only"] == "false"
    assert float(next(row for row in tables[files.CONFOUNDERS] if row["sees"] == "the whole leaf")["accuracy"]) > 0.6


@pytest.mark.slow
def test_with_a_model_and_by_actors(small_dataset: str, tmp_path: Path) -> None:
    classes = open_dataset(small_dataset).classes
    made = methods.build("resnet50", len(classes), init="none", backbone="shufflenet_v2_x0_5")
    made.net.eval()
    save_model(tmp_path / "model", made, classes, {"resize": 40, "size": 32}, {"data": "other"}, {})
    words = ("--model", str(tmp_path / "model"))
    _, here = audited(small_dataset, tmp_path / "here", *words)
    _, there = audited(small_dataset, tmp_path / "there", *words, "--max-actors", "2")
    assert len(here[files.LEAVES]) == 21
    for one, other in zip(here[files.LEAVES], there[files.LEAVES], strict=True):
        assert [one[name] for name in ("image_id", "bytes", "blur")] == [
            other[name] for name in ("image_id", "bytes", "blur")
        ]
        # An actor computes with one thread, whose sums round otherwise.
        assert float(one["label_quality"]) == pytest.approx(float(other["label_quality"]), abs=1e-3)
    html = (tmp_path / "here" / "audit.html").read_text(encoding="utf-8")
    assert "The network was trained on the train leaves" in html
    assert str(tmp_path / "model") in html

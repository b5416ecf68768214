"""A synthetic set on disk: its layout, the same bytes from the same seed, its recorded settings."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from ufgvc.core.errors import UserError
from ufgvc.data.images import decode
from ufgvc.synthetic import SynthSettings, generate_leaf, synthesize


def digest(folder: Path) -> dict[str, str]:
    return {
        str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in sorted(folder.rglob("*"))
        if f.is_file()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = SynthSettings(cultivars=2, train_per_cultivar=1, test_per_cultivar=3, size=96)
    return synthesize(tmp_path_factory.mktemp("synth") / "leaves", settings, seed=3)


def test_the_layout_is_that_of_the_release(folder: Path) -> None:
    names = sorted(f.name for f in (folder / "images").iterdir())
    assert names == [f"{c}_{k}.jpg" for c in (1, 2) for k in ("1_train", "2_test", "4_test", "6_test")]
    assert (folder / "anno/train.txt").read_text() == "1_1_train.jpg 1\n2_1_train.jpg 2\n"
    assert len((folder / "anno/test.txt").read_text().splitlines()) == 6
    assert (folder / "classes.txt").read_text() == "Cotton-1\nCotton-2\n"
    for name in names:
        stem = Path(name).stem
        boxes = [line.split() for line in (folder / "labels" / f"{stem}.txt").read_text().splitlines()]
        assert len(boxes) == 3
        assert all(0 <= float(v) <= 1 for box in boxes for v in box[1:])
        assert decode((folder / "images" / name).read_bytes()).shape == (96, 96, 3)
        for kind in ("vein", "contour"):
            with Image.open(folder / "masks" / kind / f"{stem}.png") as mask:
                assert (mask.mode, mask.size) == ("1", (96, 96))


def test_the_same_seed_gives_the_same_bytes_whatever_the_workers(folder: Path, tmp_path: Path) -> None:
    settings = SynthSettings(cultivars=2, train_per_cultivar=1, test_per_cultivar=3, size=96)
    again = synthesize(tmp_path / "two", settings, seed=3, workers=2)
    assert digest(again) == digest(folder)
    other = synthesize(tmp_path / "other", settings, seed=4)
    assert not set(digest(other / "images").values()) & set(digest(folder / "images").values())


def test_a_leaf_does_not_depend_on_the_rest_of_its_set() -> None:
    few, many = SynthSettings(cultivars=2, size=96), SynthSettings(cultivars=80, test_per_cultivar=50, size=96)
    first, second = generate_leaf(few, 0, 2, 5).picture, generate_leaf(many, 0, 2, 5).picture
    assert np.array_equal(first.image, second.image)
    assert not np.array_equal(first.image, generate_leaf(few, 0, 2, 7).picture.image)


def test_presets_have_the_size_of_the_real_sets() -> None:
    assert SynthSettings().number == 80
    assert SynthSettings(preset="soylocal200").number == 200


def test_existing_leaves_are_not_written_again_and_other_files_not_overwritten(folder: Path, tmp_path: Path) -> None:
    before = {f: f.stat().st_mtime_ns for f in folder.rglob("*")}
    synthesize(folder, SynthSettings(cultivars=2, train_per_cultivar=1, test_per_cultivar=3, size=96), seed=3)
    assert {f: f.stat().st_mtime_ns for f in folder.rglob("*")} == before
    with pytest.raises(UserError, match="holds something else"):
        synthesize(folder, SynthSettings(cultivars=2, size=96), seed=3)
    with pytest.raises(UserError, match="seed"):
        synthesize(tmp_path / "x", SynthSettings(cultivars=2, size=96), seed=-1)


def test_the_settings_are_recorded(folder: Path, tmp_path: Path) -> None:
    record = json.loads((folder / "synthetic.json").read_text())
    assert list(record) == [
        "version",
        "seed",
        "preset",
        "cultivars",
        "train_per_cultivar",
        "test_per_cultivar",
        "size",
        "variant",
        "format",
        "difficulty",
    ]
    few = SynthSettings(cultivars=2, train_per_cultivar=1, test_per_cultivar=1, size=64, difficulty=2)
    harder = synthesize(tmp_path / "harder", few)
    assert json.loads((harder / "synthetic.json").read_text())["difficulty"] == 2
    with pytest.raises(UserError, match="holds something else"):
        synthesize(harder, few.model_copy(update={"difficulty": 1.0}))


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_difficulty_that_is_none_is_refused(value: float) -> None:
    with pytest.raises(ValidationError, match="difficulty"):
        SynthSettings(difficulty=value)


def test_metadata_of_every_leaf_is_written(folder: Path) -> None:
    with open(folder / "masks/leaves.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert {"file", "plant", "position", "light", "scale", "bytes"} <= rows[0].keys()

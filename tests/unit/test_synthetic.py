"""Synthetic leaves: layout, geometry of the real sets, exact masks, and that only the leaf identifies the cultivar."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from scipy import ndimage, stats

from ufgvc.core.errors import UserError
from ufgvc.data.images import decode
from ufgvc.synthetic import SynthSettings, generate_leaf, plan_leaf, synthesize
from ufgvc.synthetic.cultivars import (
    BETWEEN,
    DIMENSIONS,
    FREEDOM,
    LEAF,
    LIMIT,
    PLANT,
    POSITION,
    POSITIONS,
    SPACES,
    Variant,
    plant_and_position,
    rng_for,
    sample_traits,
)
from ufgvc.synthetic.writer import encode_image


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


# Means of (cx, cy, w, h) over the images of the released label files.
COTTON = {
    "left": (0.274, 0.642, 0.324, 0.422),
    "middle": (0.497, 0.545, 0.148, 0.646),
    "right": (0.720, 0.636, 0.314, 0.424),
}
SOY = {
    False: [(0.552, 0.495, 0.769, 0.053), (0.587, 0.417, 0.625, 0.098), (0.572, 0.586, 0.655, 0.120)],
    True: [(0.502, 0.602, 0.061, 0.635), (0.425, 0.593, 0.085, 0.598), (0.579, 0.612, 0.086, 0.567)],
}
TOLERANCE = 0.045


def test_cotton_boxes_lie_as_in_the_real_set() -> None:
    plans = [plan_leaf(SynthSettings(), 0, cultivar, k) for cultivar in range(1, 41) for k in (1, 2)]
    boxes = np.array([sorted(plan.boxes, key=lambda box: box[1]) for plan in plans])
    assert (boxes[..., 0] == 0).all()
    for index, name in enumerate(("left", "middle", "right")):
        assert boxes[:, index, 1:].mean(0) == pytest.approx(COTTON[name], abs=TOLERANCE), name
    narrowest = boxes[..., 3].argmin(1)
    assert (narrowest == 1).mean() > 0.95


def test_soy_boxes_lie_as_in_the_real_set() -> None:
    settings = SynthSettings(preset="soylocal200")
    plans = [plan_leaf(settings, 0, cultivar, k) for cultivar in range(1, 101) for k in (1, 2)]
    upright = np.array([plan.scene.upright for plan in plans])
    assert 0.70 < 1 - upright.mean() < 0.90
    for up in (False, True):
        rows = []
        for plan in (p for p in plans if p.scene.upright == up):
            sides = sorted((box for box in plan.boxes if box[0] == 1), key=lambda box: box[1] if up else box[2])
            rows.append([*[box for box in plan.boxes if box[0] == 0], *sides])
        boxes = np.array(rows)
        assert boxes.shape[1] == 3
        for index in range(3):
            assert boxes[:, index, 1:].mean(0) == pytest.approx(SOY[up][index], abs=TOLERANCE), (up, index)


@pytest.mark.parametrize("preset", ["cotton80", "soylocal200"])
def test_masks_are_the_veins_and_the_margin(preset: str) -> None:
    settings = SynthSettings(preset=preset)
    for cultivar in (1, 2):
        plan = plan_leaf(settings, 1, cultivar, 2)
        picture = generate_leaf(settings, 1, cultivar, 2).picture
        blade = _inside(plan.pose(plan.blade.outline), settings.size)
        assert not (picture.vein & ~ndimage.binary_dilation(blade, iterations=2)).any()
        near_margin = ndimage.binary_dilation(blade, iterations=3) & ~ndimage.binary_erosion(blade, iterations=3)
        column, row = plan.pose(np.zeros((1, 2)))[0]
        rows, columns = np.mgrid[: settings.size, : settings.size]
        off_base = np.hypot(rows - row, columns - column) > 8  # there both margins meet in a slit thinner than a pixel
        assert not (picture.contour & ~near_margin & off_base).any()
        assert 0.05 < picture.vein.sum() / blade.sum() < 0.45
        assert {vein.order for vein in plan.veins} == {1, 2, 3}
        widths = [w for vein in plan.veins for w in vein.width]
        assert 0.5 < min(widths) < max(widths) < 5
        pixels = picture.image.astype(float)
        away = blade & ~ndimage.binary_dilation(picture.vein, iterations=1)
        assert pixels[picture.vein].mean() > pixels[away].mean(), "veins are paler than the blade"
        assert abs(pixels[blade].mean() - pixels[~ndimage.binary_dilation(blade, iterations=25)].mean()) > 25


def _inside(outline: np.ndarray, size: int) -> np.ndarray:
    from PIL import ImageDraw

    image = Image.new("1", (size, size))
    ImageDraw.Draw(image).polygon([tuple(p) for p in outline.tolist()], fill=1)
    return np.array(image)


def test_train_and_test_leaves_come_from_different_plants() -> None:
    train, test = ({plant_and_position(k)[0] for k in range(start, 101, 2)} for start in (1, 2))
    assert not train & test
    assert [plant_and_position(k)[1] for k in (1, 3, 5)] == ["upper", "middle", "lower"]


def test_spaces_are_independent_and_have_heavy_tails() -> None:
    means = {}
    for index, space in enumerate(SPACES):
        rows = [
            np.mean([getattr(sample_traits(0, c, k, "all"), space) for k in range(1, 7)], axis=0) for c in range(1, 201)
        ]
        means[space] = np.array(rows)
        leaves = np.array([getattr(sample_traits(0, 1, k, "all"), space) for k in range(1, 401)])
        assert stats.kurtosis(leaves, axis=0).mean() > 0.3, index
    for a, b in (("shape", "veins"), ("shape", "texture"), ("veins", "texture")):
        both = np.corrcoef(np.hstack([means[a], means[b]]).T)[: means[a].shape[1], means[a].shape[1] :]
        bound = np.tanh(
            stats.norm.ppf(1 - 0.0005 / both.size) / np.sqrt(197)
        )  # of the largest of many correlations of nothing
        assert np.abs(both).max() < bound


def nearest_centroid(features: Callable[[int, int], np.ndarray], cultivars: int, leaves: int) -> tuple[int, int]:
    """(right, of how many) on even leaves, from the centroids of the odd ones; features standardised."""
    x = np.array([[features(c, k) for k in range(1, leaves + 1)] for c in range(1, cultivars + 1)])
    x = (x - x.mean((0, 1))) / np.maximum(x.std((0, 1)), 1e-9)
    centroids, asked = x[:, ::2].mean(1), x[:, 1::2].reshape(-1, x.shape[2])
    said = ((asked[:, None] - centroids[None]) ** 2).sum(2).argmin(1)
    return int((said == np.repeat(np.arange(cultivars), leaves // 2)).sum()), len(asked)


def at_chance(right: int, asked: int, cultivars: int) -> bool:
    return right <= stats.binom.ppf(0.9995, asked, 1 / cultivars)


@pytest.mark.parametrize("variant", ["all", "vein_only", "shape_only", "texture_only"])
def test_traits_identify_the_cultivar_only_in_the_spaces_that_differ(variant: Variant) -> None:
    for space in SPACES:
        right, asked = nearest_centroid(lambda c, k, s=space: getattr(sample_traits(0, c, k, variant), s), 30, 12)
        differs = variant == "all" or variant.startswith(space.rstrip("s"))
        assert at_chance(right, asked, 30) != differs, (variant, space, right, asked)
        if differs:
            assert right < 0.97 * asked, "too easy to be ultra-fine-grained"


def traits_without_difficulty(seed: int, cultivar: int, k: int, space: str, differs: bool) -> np.ndarray:
    """The traits of one space without a difficulty."""
    plant, position = plant_and_position(k)
    number, size, unit = SPACES.index(space), DIMENSIONS[space], np.sqrt((FREEDOM - 2) / FREEDOM)
    between = BETWEEN[space] if differs else 0.0
    value = between * (rng_for(1, seed, number, cultivar).standard_t(FREEDOM, size) * unit)
    value = value + PLANT[space] * rng_for(2, seed, number, cultivar, plant).standard_normal(size)
    value = value + POSITION[space] * rng_for(3, seed, number, POSITIONS.index(position)).standard_normal(size)
    value = value + LEAF[space] * (rng_for(4, seed, number, cultivar, k).standard_t(FREEDOM, size) * unit)
    return LIMIT * np.tanh(value / LIMIT)


@pytest.mark.parametrize("variant", ["all", "vein_only", "shape_only", "texture_only"])
def test_difficulty_one_does_not_change_the_traits(variant: Variant) -> None:
    plain = SynthSettings(variant=variant, size=64)
    for cultivar, k in ((1, 1), (7, 4)):
        leaf, plan = generate_leaf(plain, 5, cultivar, k), plan_leaf(plain, 5, cultivar, k)
        for space in SPACES:
            differs = variant == "all" or variant.startswith(space.rstrip("s"))
            expected = traits_without_difficulty(5, cultivar, k, space, differs)
            assert np.array_equal(getattr(plan.traits, space), expected)
        harder = generate_leaf(plain.model_copy(update={"difficulty": 3.0}), 5, cultivar, k)
        assert not np.array_equal(harder.picture.image, leaf.picture.image)
        assert harder.metadata == leaf.metadata, "pose, light and plant stay those of the leaf"


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


def spreads(difficulty: float, cultivars: int = 150) -> dict[str, tuple[float, float]]:
    """Variances between cultivars and between a plant's leaves, by a nested ANOVA; means over the traits of a space.

    Four plants of three leaves each; traits are taken before they are limited, so that what adds up there adds up here.
    """
    numbers = [k for plant in range(4) for k in range(1, 13) if plant_and_position(k)[0] == plant]
    rows = [[sample_traits(1, cultivar, k, "all", difficulty) for k in numbers] for cultivar in range(1, cultivars + 1)]
    found = {}
    for space in SPACES:
        x = np.array([[getattr(leaf, space) for leaf in row] for row in rows]).reshape(
            cultivars, 4, 3, DIMENSIONS[space]
        )
        x = LIMIT * np.arctanh(x / LIMIT)
        x = x - x.mean(0)  # where on the plant a leaf grew does the same to every cultivar
        plants = x.mean(2)
        between = plants.mean(1).var(0, ddof=1) - plants.var(1, ddof=1).mean(0) / 4
        found[space] = float(between.mean()), float(x.var(2, ddof=1).mean())
    return found


def test_difficulty_divides_the_spread_between_cultivars_and_no_other() -> None:
    plain = spreads(1.0)
    for difficulty in (0.5, 2.0, 4.0):
        changed = spreads(difficulty)
        for space in SPACES:
            assert changed[space][0] * difficulty**2 == pytest.approx(plain[space][0], rel=0.15), (space, difficulty)
            assert changed[space][1] == pytest.approx(plain[space][1], rel=1e-6), (space, difficulty)


def test_the_harder_the_fewer_are_recognised() -> None:
    def right(difficulty: float, variant: Variant, space: str) -> int:
        return nearest_centroid(lambda c, k: getattr(sample_traits(0, c, k, variant, difficulty), space), 30, 12)[0]

    for variant, space in (("vein_only", "veins"), ("shape_only", "shape"), ("texture_only", "texture")):
        easy, plain, hard, blind = (right(difficulty, variant, space) for difficulty in (0.5, 1.0, 3.0, 1e6))
        assert easy > plain > hard > 2 * blind, variant
        assert at_chance(blind, 180, 30), variant
        for other in {*SPACES} - {space}:
            assert at_chance(right(0.5, variant, other), 180, 30), (variant, other)


def test_pose_and_light_do_not_identify_the_cultivar() -> None:
    def scene(cultivar: int, k: int) -> np.ndarray:
        return np.array(list(plan_leaf(settings, 0, cultivar, k).scene.row().values()))

    settings = SynthSettings(preset="soylocal200", size=64)
    right, asked = nearest_centroid(scene, 20, 12)
    assert at_chance(right, asked, 20), (right, asked)


@pytest.fixture
def seen() -> dict[str, np.ndarray]:
    """Statistics of images of 12 cultivars x 8 leaves: background, file size, and (as a control) blade."""
    settings, found = SynthSettings(size=128), {"background": [], "bytes": [], "blade": []}
    for cultivar in range(1, 13):
        for k in range(1, 9):
            plan, picture = plan_leaf(settings, 0, cultivar, k), generate_leaf(settings, 0, cultivar, k).picture
            blade = _inside(plan.pose(plan.blade.outline), 128)
            pixels, corner = picture.image.astype(float), np.ones((128, 128), dtype=bool)
            corner[14:] = False  # above every leaf: what is shadow and petiole elsewhere has the leaf's own shape
            ground = pixels[corner & ~ndimage.binary_dilation(blade, iterations=4)]
            found["background"].append([*ground.mean(0), *ground.std(0)])
            found["bytes"].append([np.log(len(encode_image(picture, "jpg")))])
            inner = ndimage.binary_erosion(blade, iterations=2)
            found["blade"].append(
                [*(pixels[inner].mean(0) / ground.mean(0)), inner.mean(), np.ptp(np.nonzero(inner)[1])]
            )
    return {key: np.array(rows).reshape(12, 8, -1) for key, rows in found.items()}


def test_the_blade_identifies_the_cultivar_but_background_and_file_size_do_not(seen: dict[str, np.ndarray]) -> None:
    both = np.concatenate([seen["background"], seen["bytes"]], 2)
    for what, rows in (seen | {"both": both}).items():

        def leaf(cultivar: int, k: int, rows: np.ndarray = rows) -> np.ndarray:
            return rows[cultivar - 1, k - 1]

        right, asked = nearest_centroid(leaf, 12, 8)
        assert at_chance(right, asked, 12) == (what != "blade"), (what, right, asked)


def test_metadata_of_every_leaf_is_written(folder: Path) -> None:
    with open(folder / "masks/leaves.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    assert {"file", "plant", "position", "light", "scale", "bytes"} <= rows[0].keys()

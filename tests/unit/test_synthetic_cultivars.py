"""Synthetic leaves: only the leaf identifies the cultivar, in the traits that differ, and less with more difficulty."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage, stats

from tests.factories import only_main_veins, polygon_mask
from ufgvc.synthetic import SynthSettings, generate_leaf, plan_leaf, writer
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
from ufgvc.synthetic.writer import LeafPlan, encode_image


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


def test_pose_and_light_do_not_identify_the_cultivar(monkeypatch: pytest.MonkeyPatch) -> None:
    only_main_veins(monkeypatch)

    def scene(cultivar: int, k: int) -> np.ndarray:
        return np.array(list(plan_leaf(settings, 0, cultivar, k).scene.row().values()))

    settings = SynthSettings(preset="soylocal200", size=64)
    right, asked = nearest_centroid(scene, 20, 12)
    assert at_chance(right, asked, 20), (right, asked)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Statistics of images of 12 cultivars x 8 leaves: background, file size, and (as a control) blade."""
    plans: list[LeafPlan] = []  # half of the time goes to them
    monkeypatch.setattr(writer, "plan_leaf", lambda *key: plans.append(plan_leaf(*key)) or plans[-1])
    settings, found = SynthSettings(size=128), {"background": [], "bytes": [], "blade": []}
    for cultivar in range(1, 13):
        for k in range(1, 9):
            picture = generate_leaf(settings, 0, cultivar, k).picture
            plan = plans.pop()
            blade = polygon_mask(plan.pose(plan.blade.outline), 128)
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

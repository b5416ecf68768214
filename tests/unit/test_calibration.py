"""Temperatures and thresholds against brute force and by their own conditions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import safetensors.numpy
import torch
from numpy.typing import NDArray
from scipy import special

from ufgvc.core.errors import UserError
from ufgvc.models.calibration import (
    VARIANCE,
    Calibration,
    FeatureSubspace,
    calibration_of_checkpoint,
    expected_calibration_error,
    fit_calibration,
    fit_feature_subspace,
    fit_temperature,
    log_loss,
    softmax,
)
from ufgvc.models.model import LoadedModel


def leaves(
    count: int = 400, classes: int = 6, heat: float = 2.5, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits that are `heat` times too large for the labels, which are drawn from softmax(logits / heat)."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1.5, (count, classes))
    labels = np.array([random.choice(classes, p=row) for row in special.softmax(logits, axis=1)])
    return (heat * logits).astype(np.float32), labels


@pytest.mark.parametrize("heat", [0.4, 1.0, 2.5])
def test_the_temperature_is_the_one_that_a_grid_finds(heat: float) -> None:
    logits, labels = leaves(heat=heat)
    found = fit_temperature(logits, labels)
    grid = np.geomspace(0.05, 20, 4001)
    losses = [
        -np.log(special.softmax(logits.astype(np.float64) / t, axis=1)[np.arange(len(labels)), labels]).mean()
        for t in grid
    ]
    best = grid[int(np.argmin(losses))]
    assert found == pytest.approx(best, rel=2e-3)
    assert log_loss(logits, labels, found) <= min(losses) + 1e-12
    assert found == pytest.approx(heat, rel=0.25)


def test_the_slope_is_zero_at_the_temperature() -> None:
    logits, labels = leaves(heat=3, seed=4)
    exact = logits.astype(np.float64)
    chances = special.softmax(exact / fit_temperature(logits, labels), axis=1)
    expected = (chances * exact).sum(axis=1).mean()
    assert expected == pytest.approx(exact[np.arange(len(labels)), labels].mean(), abs=1e-8)


def test_adding_to_all_logits_of_a_leaf_changes_nothing() -> None:
    logits, labels = leaves()
    moved = logits + np.random.default_rng(1).normal(0, 1, (len(logits), 1)).astype(np.float32)
    assert fit_temperature(moved, labels) == pytest.approx(fit_temperature(logits, labels), rel=1e-4)
    assert fit_temperature(logits + 1000, labels) == pytest.approx(fit_temperature(logits, labels), rel=1e-2)


def test_where_no_temperature_is_best_it_stays_between_its_bounds() -> None:
    right = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    assert fit_temperature(right, np.array([0, 1, 2, 0])) == 0.01
    assert fit_temperature(right, np.array([1, 2, 0, 1])) == 100
    for bad in (np.full((2, 3), np.nan), np.zeros((0, 3))):
        with pytest.raises(ValueError):
            fit_temperature(bad, np.zeros(len(bad), np.int64))


def test_the_calibration_error_is_what_its_definition_says() -> None:
    # Four leaves at probability 0.9, three of them right; two at 0.6, both right.
    chances = np.array([[0.9, 0.1]] * 4 + [[0.6, 0.4]] * 2)
    labels = np.array([0, 0, 0, 1, 0, 0])
    assert expected_calibration_error(np.log(chances), labels) == pytest.approx((4 * 0.15 + 2 * 0.4) / 6)
    logits, labels = leaves(4000, heat=3)
    temperature = fit_temperature(logits, labels)
    assert expected_calibration_error(logits, labels) > 0.15
    assert expected_calibration_error(logits, labels, temperature) < 0.03
    assert log_loss(logits, labels, temperature) < log_loss(logits, labels)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95, 1.0])
def test_the_threshold_lets_the_coverage_pass_and_no_more_than_it_must(share: float) -> None:
    logits, labels = leaves(137)
    ood_score = np.random.default_rng(0).random(137)
    found = fit_calibration(logits, labels, ood_score, "test", share)
    assert found.threshold is not None
    assert (ood_score <= found.threshold).sum() >= share * 137
    assert (ood_score < found.threshold).sum() < share * 137
    assert (found.num_images, found.source, found.coverage) == (137, "test", share)
    assert Calibration.model_validate_json(found.model_dump_json()) == found  # what model.json keeps is the same number


def test_a_checkpoint_without_held_out_leaves_gives_none() -> None:
    logits, labels = leaves(30)
    assert calibration_of_checkpoint({"epoch": 1}, "holdout") is None
    pairs = [(torch.from_numpy(logits[a:b]), torch.from_numpy(labels[a:b])) for a, b in ((0, 7), (7, 7), (7, 30))]
    found = calibration_of_checkpoint({"held": pairs}, "holdout")
    assert found == fit_calibration(logits, labels, None, "holdout, the leaves that chose the epoch")
    assert found.threshold is None
    with pytest.raises(UserError, match="diverged: no numbers for 7 of 37 leaves"):
        calibration_of_checkpoint({"held": [*pairs, (torch.full((7, 6), torch.nan), pairs[0][1])]}, "holdout")


def test_a_calibrated_model_names_the_unknown_and_keeps_its_candidates() -> None:
    logits = np.array([[4.0, 0.0, 0.0], [0.2, 0.1, 0.0]], np.float32)
    plain = LoadedModel(None, ("amber", "birch", "cedar"), {"resize": 32, "size": 32}, {})  # type: ignore[arg-type]
    calibration = Calibration(temperature=2, threshold=0.5, coverage=0.95, num_images=9, source="test")
    model = LoadedModel(None, plain.classes, plain.input, {}, calibration=calibration)  # type: ignore[arg-type]
    assert plain.is_known(np.array([0.1, 0.9])).tolist() == [True, True]
    assert model.is_known(np.array([0.5, 0.51])).tolist() == [True, False]
    (first, second), (raw, _) = model.top_classes(logits), plain.top_classes(logits)
    assert first[0]["probability"] == pytest.approx(np.exp(2) / (np.exp(2) + 2))
    assert raw[0]["probability"] == pytest.approx(np.exp(4) / (np.exp(4) + 2))
    assert second[0]["cultivar"] == "amber"


def test_probabilities_do_not_overflow() -> None:
    np.testing.assert_allclose(softmax(np.array([[1e4, 1e4, -1e4]])), [[0.5, 0.5, 0]])


def test_unknown_is_what_lies_outside_of_the_span_of_the_learnt_leaves() -> None:
    random = np.random.default_rng(0)
    span = np.linalg.qr(random.normal(size=(20, 4)))[0].T
    learnt = 3 + random.normal(size=(50, 4)) @ span
    subspace = fit_feature_subspace(learnt)
    assert subspace.basis.shape[0] < 20
    np.testing.assert_allclose(subspace.basis @ subspace.basis.T, np.eye(len(subspace.basis)), atol=1e-5)
    alike = 3 + random.normal(size=(30, 4)) @ span
    other = 3 + random.normal(size=(30, 20))
    assert subspace.ood_score(other).min() > subspace.ood_score(alike).max()
    again = FeatureSubspace.from_bytes(subspace.to_bytes())
    np.testing.assert_array_equal(again.ood_score(other), subspace.ood_score(other))


def slow_ood_score(learnt: NDArray[np.float64], feature: NDArray[np.float64], standardised: bool) -> float:
    """What the definition says, of one feature and number by number, from the eigenvectors of the covariance."""
    units = [row / math.sqrt(sum(x * x for x in row)) for row in learnt]
    mean = sum(units) / len(units)
    values, vectors = np.linalg.eigh(sum(np.outer(row - mean, row - mean) for row in units))
    order, held, kept = np.argsort(values)[::-1], 0.0, []
    for index in order:  # the fewest with more than the share of the variance
        kept.append(vectors[:, index])
        held += values[index]
        if held > VARIANCE * values.sum():
            break
    length = math.sqrt(sum(x * x for x in feature))
    left = feature / length - mean
    for direction in kept:
        left = left - (left @ direction) * direction
    lengths = sorted(math.sqrt(sum(x * x for x in row)) for row in learnt)
    residual = math.sqrt(sum(x * x for x in left))
    if standardised:
        return residual * math.sqrt(length / lengths[len(learnt) // 2])
    return residual * max(1, length / lengths[3 * (len(learnt) - 1) // 4])


@pytest.mark.parametrize("standardised", [True, False])
@pytest.mark.parametrize("factor", [0.2, 1, 5])
def test_the_score_is_what_its_definition_says(factor: float, standardised: bool) -> None:
    random = np.random.default_rng(1)
    learnt, other = random.normal(1, 2, (41, 12)), factor * random.normal(0, 2, (25, 12))
    expected = [slow_ood_score(learnt, feature, standardised) for feature in other]
    found = fit_feature_subspace(learnt, standardised).ood_score(other)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("standardised", [True, False])
def test_a_model_of_an_earlier_version_keeps_its_score(standardised: bool) -> None:
    """Its file has no length, and its threshold was fitted to the residual."""
    random = np.random.default_rng(2)
    subspace = fit_feature_subspace(random.normal(size=(30, 8)), standardised)
    old = FeatureSubspace.from_bytes(safetensors.numpy.save({"mean": subspace.mean, "basis": subspace.basis}))
    other = random.normal(size=(9, 8))
    np.testing.assert_allclose(old.ood_score(7 * other), old.ood_score(other))
    assert (subspace.ood_score(50 * other) > old.ood_score(other)).all()
    np.testing.assert_array_equal(FeatureSubspace.from_bytes(old.to_bytes()).ood_score(other), old.ood_score(other))
    again = FeatureSubspace.from_bytes(subspace.to_bytes())
    np.testing.assert_array_equal(again.ood_score(9 * other), subspace.ood_score(9 * other))


def test_a_model_of_a_later_version_is_one_message() -> None:
    content = safetensors.numpy.save({name: np.ones(4, np.float32) for name in ("mean", "basis", "another")})
    with pytest.raises(UserError, match="of a later ufgvc"):
        FeatureSubspace.from_bytes(content)


def test_a_short_feature_of_a_trained_network_has_the_score_of_its_direction() -> None:
    random = np.random.default_rng(3)
    subspace, other = fit_feature_subspace(random.normal(size=(30, 8))), random.normal(size=(9, 8))
    np.testing.assert_allclose(subspace.ood_score(0.01 * other), subspace.ood_score(0.001 * other))
    np.testing.assert_allclose(subspace.ood_score(200 * other), 2 * subspace.ood_score(100 * other))


def test_a_reference_of_leaves_that_are_all_the_same_has_no_direction() -> None:
    subspace = fit_feature_subspace(np.ones((3, 8)))
    assert subspace.basis.shape == (0, 8)
    assert subspace.ood_score(np.ones((1, 8)))[0] == pytest.approx(0, abs=1e-6)
    assert np.isfinite(subspace.ood_score(np.zeros((1, 8)))).all()


def test_features_of_another_width_are_one_message() -> None:
    """As of a probe that an earlier version calibrated on its last map."""
    subspace = FeatureSubspace(np.zeros(4, np.float32), np.eye(2, 4, dtype=np.float32))
    with pytest.raises(UserError, match="calibrated on features of 4 numbers, the network gives 6"):
        subspace.ood_score(np.ones((3, 6)))

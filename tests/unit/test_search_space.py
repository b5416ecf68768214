"""The search space: uniform sampling of the simplex, conversion to Optuna's parameters, messages for mistakes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from ufgvc.core.errors import UserError
from ufgvc.evaluation.search_record import Dimension
from ufgvc.experiments.search_space import (
    SEARCHABLE,
    apply_values,
    decode_params,
    encode_values,
    make_grid,
    optuna_distributions,
    paper_values,
    published_settings,
    read_space,
)
from ufgvc.training.settings import TrainSettings

SMALL = {"backbone": "resnet18"}
TRAIN = TrainSettings(epochs=20, resize=96, crop=80, batch_size=8)
FUSION = Dimension("options.fusion", "simplex", parts=("base", "vein", "contour"))
LOSS = Dimension("options.loss_weights.vein", "log", 0.01, 10.0)
BATCH = Dimension("train.batch_size", "linear", 4, 16)
KIND = Dimension("options.activation", "choice", choices=("sigmoid", "softmax_peak"))
unit = st.floats(0, 1, allow_nan=False)


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_uniform_numbers_are_uniform_points_of_the_simplex(parts: int) -> None:
    """As Dirichlet(1, ..., 1): each weight alone is Beta(1, k - 1), and the sum of two is Beta(2, k - 2)."""
    axis = Dimension("w", "simplex", parts=tuple("abcd"[:parts]))
    draws = np.random.default_rng(0).random((4000, parts - 1))
    points = np.array(
        [
            list(
                decode_params([axis], {f"w/{part}": u for part, u in zip(axis.parts, row, strict=False)})["w"].values()
            )
            for row in draws
        ]
    )
    assert np.allclose(points.sum(1), 1)
    assert points.min() >= 0
    for weight in points.T:
        assert scipy.stats.kstest(weight, scipy.stats.beta(1, parts - 1).cdf).pvalue > 0.001
    if parts > 2:
        assert scipy.stats.kstest(points[:, :2].sum(1), scipy.stats.beta(2, parts - 2).cdf).pvalue > 0.001


def test_the_papers_weights_by_hand() -> None:
    """base = 1 - sqrt(1 - u1), vein = (1 - base) u2: u1 = 1 - 0.7^2 gives 0.3, and u2 = 5/7 of the remaining 0.7."""
    params = encode_values([FUSION], {"options.fusion": {"base": 0.3, "vein": 0.5, "contour": 0.2}})
    assert params == pytest.approx({"options.fusion/base": 0.51, "options.fusion/vein": 5 / 7})


@settings(deadline=None)
@given(unit, unit, st.floats(0.01, 10), st.integers(4, 16), st.integers(0, 1))
def test_params_and_values_convert_in_both_directions(u1: float, u2: float, loss: float, batch: int, kind: int) -> None:
    axes = (FUSION, LOSS, BATCH, KIND)
    values = decode_params(
        axes,
        {"options.fusion/base": u1, "options.fusion/vein": u2, LOSS.name: loss, BATCH.name: batch, KIND.name: kind},
    )
    params = encode_values(axes, values)
    assert params is not None
    assert set(params) == set(optuna_distributions(axes))
    again = decode_params(axes, params)
    assert again["options.fusion"] == pytest.approx(values["options.fusion"], abs=1e-9)
    assert {name: again[name] for name in (LOSS.name, BATCH.name, KIND.name)} == {
        LOSS.name: loss,
        BATCH.name: batch,
        KIND.name: KIND.choices[kind],
    }


def test_values_outside_the_space_have_no_params() -> None:
    assert encode_values([LOSS], {LOSS.name: 11.0}) is None
    assert encode_values([KIND], {KIND.name: "softmax"}) is None


def test_the_default_space_and_the_papers_setting() -> None:
    axes = read_space({}, "mask_guided", SMALL, TRAIN)
    assert [axis.name for axis in axes] == [
        "options.fusion",
        "options.loss_weights.vein",
        "options.loss_weights.contour",
    ]
    assert axes[0].parts == ("base", "vein", "contour")
    assert paper_values(axes, "mask_guided", SMALL, TRAIN) == {
        "options.fusion": {"base": 0.3, "vein": 0.5, "contour": 0.2},
        "options.loss_weights.vein": 0.1,
        "options.loss_weights.contour": 0.1,
    }


def test_trial_0_is_the_papers_whatever_the_user_has_set() -> None:
    own = SMALL | {"fusion": {"base": 0.8, "vein": 0.1, "contour": 0.1}, "loss_weights": {"vein": 3.0}}
    space = {"options.fusion": "simplex", "train.learning_rate": {"low": 1e-4, "high": 1, "log": True}}
    train = TRAIN.model_copy(update={"learning_rate": 0.5})
    axes = read_space(space, "mask_guided", own, train)
    values = paper_values(axes, "mask_guided", own, train)
    assert values == {"options.fusion": {"base": 0.3, "vein": 0.5, "contour": 0.2}, "train.learning_rate": 0.003}
    options, chosen = apply_values("mask_guided", own, train, values)
    assert options["loss_weights"]["vein"] == 3.0, "what is not searched stays as the user has it"
    assert chosen.learning_rate == 0.003
    assert chosen.epochs == 20


def test_one_region_is_a_simplex_of_two_weights() -> None:
    options = SMALL | {"regions": ["vein"]}
    axes = read_space({}, "mask_guided", options, TRAIN)
    assert axes[0].parts == ("base", "vein")
    assert paper_values(axes, "mask_guided", options, TRAIN)["options.fusion"] == pytest.approx(
        {"base": 3 / 8, "vein": 5 / 8}
    )


@pytest.mark.parametrize(
    ("method", "names"), [("dcl", ["adversarial", "location"]), ("maskcov", ["shuffled", "covariance"])]
)
def test_other_methods_have_loss_weights_too(method: str, names: list[str]) -> None:
    axes = read_space({}, method, SMALL, TRAIN)
    assert [axis.name.rsplit(".", 1)[1] for axis in axes] == names


def test_the_searchable_settings_exist() -> None:
    assert set(TrainSettings.model_fields) >= SEARCHABLE
    (kind,) = read_space({"train.mask_kind": ["box", "exact"]}, "mask_guided", SMALL, TRAIN)
    assert kind.choices == ("box", "exact")


def test_a_method_without_weights_searches_its_learning_rate() -> None:
    (axis,) = read_space({}, "resnet50", SMALL, TRAIN)
    rate = published_settings("resnet50", SMALL, TRAIN)["train"]["learning_rate"]
    assert (axis.name, axis.kind, axis.low, axis.high) == ("train.learning_rate", "log", rate / 10, rate * 10)


def test_whole_numbers_stay_whole_and_rates_do_not() -> None:
    axes = read_space(
        {"train.batch_size": {"low": 4, "high": 16}, "options.control.gain": {"low": 1, "high": 2}},
        "mask_guided",
        SMALL,
        TRAIN,
    )
    assert [type(axis.low) for axis in axes] == [int, float]
    assert [point["train.batch_size"] for point in make_grid(axes[:1], 4)] == [4, 8, 12, 16]


def test_a_grid_has_every_combination_and_a_lattice_of_the_simplex() -> None:
    points = make_grid((FUSION, LOSS), 4)
    lattice = [point["options.fusion"] for point in points if point[LOSS.name] == 0.01]
    assert len(lattice) == 10  # (3 + 2 choose 2)
    assert len(points) == 40
    assert all(sum(weights.values()) == pytest.approx(1) for weights in lattice)
    assert sorted({round(point[LOSS.name], 6) for point in points}) == [0.01, 0.1, 1.0, 10.0]


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"options.fussion": "simplex"}, "options.fussion.*no such setting"),
        ({"fusion": "simplex"}, "no such setting"),
        ({"train.nothing": [1, 2]}, "no such setting"),
        ({"train.epochs": [10, 20]}, "same in every trial"),
        ({"train.workers": [1, 2]}, "same in every trial"),
        ({"options.backbone": "simplex"}, "not a set of two or more weights"),
        ({"options.fusion.base": {"low": -0.5, "high": 1}}, "fusion.base.*greater than or equal to 0"),
        ({"train.learning_rate": {"low": 0, "high": 1, "log": True}}, "log scale cannot start at 0"),
        ({"train.learning_rate": {"low": 2, "high": 1}}, "empty"),
        ({"train.learning_rate": {"low": 1}}, "is not a range"),
        ({"train.learning_rate": {"low": "a", "high": 1}}, "not both numbers"),
        ({"train.learning_rate": 0.1}, "is not a range"),
        ({"train.learning_rate": [0.1]}, "two or more"),
        ({"train.batch_size": {"low": 4.5, "high": 9.5}}, "whole numbers"),
        ({"options.activation": ["sigmoid", "tanh"]}, "activation"),
    ],
)
def test_a_space_that_cannot_be_searched_is_one_message(space: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        read_space(space, "mask_guided", SMALL, TRAIN)
    import re

    assert re.search(words, str(caught.value))
    assert "search.space" in str(caught.value)
    assert caught.value.fix

"""The solver of the probes' regressions: its coordinates, folds that are fitted in one, and where strengths end."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression as Reference
from torch import Tensor

from tests.unit.probe_parts import ALONE, Together, embeddings
from ufgvc.core.errors import UserError
from ufgvc.data.splits import assign_folds
from ufgvc.training import fit, logistic
from ufgvc.training.embeddings import Embeddings
from ufgvc.training.fit import Fitted, fit_classifier
from ufgvc.training.logistic import LogisticRegression, Stretched

FOLDS = assign_folds(np.arange(60) % 4, [None] * 60, fit.FOLDS, 0)


DRAWN = np.random.default_rng(0).normal(0, 2, (12, 6))


@pytest.mark.parametrize(
    "rows",
    [DRAWN[:4], DRAWN, DRAWN[[0, 0, 1, 1]], DRAWN[:3] * [[1e4], [1], [1e-3]], DRAWN * 0, DRAWN[:0]],
    ids=["few", "many", "repeated", "uneven", "zero", "none"],
)
def test_solutions_are_stretched_by_the_root_of_the_matrix(rows: np.ndarray) -> None:
    squares, turned = np.linalg.eigh(np.eye(6) + rows.T @ rows)
    solutions = np.random.default_rng(1).normal(0, 1, (3, 7))
    wanted = np.hstack([solutions[:, :-1] @ (turned * np.sqrt(squares)) @ turned.T, solutions[:, -1:] * 3])
    space = Stretched.of(torch.from_numpy(rows), torch.tensor(9.0, dtype=torch.float64))
    found = space.stretch(torch.from_numpy(solutions))
    assert np.allclose(found, wanted, rtol=1e-8, atol=2e-5 if squares[-1] > 1e6 else 1e-10)
    assert np.allclose(space.shrink(found), solutions, atol=1e-8)


def test_stretched_solutions_come_back_where_rounding_hides_most_directions() -> None:
    rows = np.random.default_rng(0).normal(0, 1, (30, 50))
    rows[:10] *= 1e8
    space = Stretched.of(torch.from_numpy(rows), torch.tensor(0.0, dtype=torch.float64))
    solutions = torch.ones(1, 51, dtype=torch.float64)
    assert torch.allclose(space.shrink(space.stretch(solutions)), solutions, atol=1e-5)


@pytest.mark.parametrize("intercept", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("width", [7, 300], ids=["more rows", "more columns"])
@pytest.mark.parametrize("held", [4096, 0], ids=["held", "read"])
def test_folds_that_are_fitted_in_one_are_those_fitted_alone(
    held: int, width: int, intercept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logistic, "HELD", held)
    monkeypatch.setattr(logistic, "CHUNK", 13)
    found = embeddings(width=width)
    wide = found.rows.astype(float)
    mean, scale = wide.mean((0, 1)) * intercept, wide.std((0, 1))
    problem = LogisticRegression(found, 4, ALONE, intercept)
    chosen = np.stack([fold != FOLDS for fold in range(fit.FOLDS)])
    for part, solution in zip(chosen, problem.solve(chosen, 0.1, None), strict=True):
        rows, labels = ((wide[part] - mean) / scale).reshape(-1, width), np.repeat(found.labels[part], 2)
        wanted = Reference(C=0.1, tol=1e-9, max_iter=5000, fit_intercept=intercept).fit(rows, labels)
        weight, bias = problem.unfold(solution)
        assert np.allclose(weight, wanted.coef_, atol=2e-4)
        assert np.allclose(bias - bias.mean(), wanted.intercept_ - np.mean(wanted.intercept_), atol=2e-4)


@pytest.mark.parametrize("intercept", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("width", [7, 300], ids=["more rows", "more columns"])
@pytest.mark.parametrize("held", [4096, 0], ids=["held", "read"])
def test_rough_solutions_have_almost_the_loss_of_exact_ones(
    held: int, width: int, intercept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logistic, "HELD", held)
    found = embeddings(width=width)
    found.rows[:, :, 1:3] += 3000  # type: ignore[operator]  # more than they vary: float32 sees less of them
    problem = LogisticRegression(found, 4, ALONE, intercept)
    chosen = np.stack([fold != FOLDS for fold in range(fit.FOLDS)])
    for strength in fit.STRENGTHS:
        rough, exact = (
            sum(problem.score(~part, each).loss for part, each in zip(chosen, solved, strict=True))
            for solved in (problem.solve(chosen, strength, None, rough=kind) for kind in (True, False))
        )
        assert rough == pytest.approx(exact, rel=0.03)


@pytest.mark.parametrize("intercept", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("width", [7, 300], ids=["more rows", "more columns"])
def test_columns_that_do_not_change_have_no_weights(width: int, intercept: bool) -> None:
    found = embeddings(width=width)
    constant = np.broadcast_to(np.array([0, 7.7, 0], np.float32), (60, 2, 3))
    more = replace(found, rows=np.concatenate([constant, found.rows], axis=2))
    fitted, wanted = (fit_classifier(each, FOLDS, 4, ALONE, intercept=intercept) for each in (more, found))
    assert not fitted.weight[:, [0, 2]].any()
    if intercept:
        assert not fitted.weight[:, 1].any()
        agree(replace(fitted, weight=fitted.weight[:, 3:]), wanted)
    else:  # without a bias, a column that is not 0 is one, with a penalty
        assert fitted.weight[:, 1].any()


def test_leaves_that_are_all_the_same_are_fitted() -> None:
    found = embeddings()
    same = replace(found, rows=np.ones_like(found.rows))
    fitted = fit_classifier(same, FOLDS, 4, ALONE)
    assert not fitted.weight.any()
    assert torch.allclose(fitted.bias, fitted.bias.mean(), atol=1e-4)


@pytest.mark.parametrize("together", [1, 9])
def test_folds_are_fitted_in_parts_where_cultivars_are_many(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = fit_classifier(embeddings(), FOLDS, 4, ALONE)
    sizes = tried(monkeypatch, "solve")
    monkeypatch.setattr(fit, "TOGETHER", together)
    fitted = fit_classifier(embeddings(), FOLDS, 4, ALONE)
    assert {len(chosen) for chosen, *_ in sizes} == {1: {1}, 9: {1, 2}}[together]
    agree(fitted, wanted)


def test_no_strength_is_tried_after_two_with_more_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    found = embeddings()
    noise = replace(found, labels=np.random.default_rng(1).permutation(found.labels))
    calls = tried(monkeypatch, "solve")
    fitted = fit_classifier(noise, FOLDS, 4, ALONE)
    assert [strength for _, strength, *_ in calls] == [0.001, 0.01, 0.1, 0.001, 0.001]
    monkeypatch.setattr(fit, "RISES", len(fit.STRENGTHS))
    calls.clear()
    agree(fit_classifier(noise, FOLDS, 4, ALONE), fitted)
    assert [strength for _, strength, *_ in calls] == [*fit.STRENGTHS, 0.001, 0.001]


def test_a_cultivar_may_lack_training_leaves_in_a_fold() -> None:
    found = embeddings()
    folds = np.where(found.labels == 3, 0, FOLDS)
    problem = LogisticRegression(found, 4, ALONE)
    chosen = np.stack([folds != 0, folds != 1])
    lacking, whole = problem.solve(chosen, 0.1, None)
    rows = problem.rows.flatten(0, 1)[torch.from_numpy(np.repeat(folds != 0, 2))].numpy()
    wanted = Reference(C=0.1, tol=1e-9, max_iter=5000).fit(rows, np.repeat(found.labels[folds != 0], 2))
    assert np.allclose(lacking[:3, :-1], wanted.coef_, atol=5e-4)
    assert torch.allclose(whole, problem.solve(chosen[1:], 0.1, None)[0], atol=5e-4)
    fitted = fit_classifier(found, folds, 4, ALONE)
    assert fitted.weight.isfinite().all()
    assert fitted.held_out[1] == 60


@pytest.mark.parametrize("sizes", [(60, 0), (0, 60), (25, 35)], ids=str)
def test_ranks_may_have_no_leaves_and_step_as_rank_0_does(
    sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, alone = embeddings(), fit_classifier(embeddings(), FOLDS, 4, ALONE)
    turned = Stretched.of

    def other(rows: Tensor, *rest: Any) -> Stretched:  # as if rank 1 had another processor
        return turned(rows * (1 + 1e-3 * (threading.current_thread().name == "1")), *rest)

    monkeypatch.setattr(Stretched, "of", staticmethod(other))
    results: dict[int, Fitted] = {}
    together = Together(2)

    def run(number: int) -> None:
        part = slice(0, sizes[0]) if number == 0 else slice(sizes[0], 60)
        own = Embeddings(found.rows[part], found.labels[part], found.positions[part])
        results[number] = fit_classifier(own, FOLDS[part], 4, together.rank(number))

    threads = [threading.Thread(target=run, args=(number,), name=str(number)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert torch.equal(results[0].weight, results[1].weight)
    assert torch.equal(results[0].bias, results[1].bias)
    agree(results[1], alone)


def test_more_ranks_than_rows_that_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, found = tried(monkeypatch, "_share"), embeddings(width=300)
    wanted = fit_classifier(found, FOLDS, 4, ALONE)
    evaluations = len(rows)
    rows.clear()
    monkeypatch.setattr(logistic, "CURVED", 0)  # no direction is known: more steps to the same place
    agree(fit_classifier(found, FOLDS, 4, ALONE), wanted)
    assert len(rows) > evaluations


def test_one_leaf_one_cultivar_and_a_huge_strength_are_fitted() -> None:
    for found, classes in ((embeddings(1), 4), (embeddings(6, classes=1), 1), (embeddings(1), 1)):
        fitted = fit_classifier(found, None, classes, ALONE)
        assert fitted.weight.isfinite().all()
        assert fitted.right == len(found.labels)
    fitted = fit_classifier(embeddings(width=300), FOLDS, 4, ALONE, (1e9,))
    assert fitted.weight.isfinite().all()
    assert fitted.right == 60


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_refused(value: float) -> None:
    found = embeddings()
    found.rows[3, 0, 2] = value  # type: ignore[index]
    with pytest.raises(UserError, match="not all finite"):
        fit_classifier(found, FOLDS, 4, ALONE)


def tried(monkeypatch: pytest.MonkeyPatch, name: str) -> list[tuple[Any, ...]]:
    """The arguments of each later call of a method of LogisticRegression."""
    calls: list[tuple[Any, ...]] = []
    method = getattr(LogisticRegression, name)

    def called(self: LogisticRegression, *arguments: Any, **named: Any) -> Any:
        calls.append((*arguments, *named.values()))
        return method(self, *arguments, **named)

    monkeypatch.setattr(LogisticRegression, name, called)
    return calls


def agree(fitted: Fitted, wanted: Fitted) -> None:
    assert (fitted.strength, fitted.held_out, fitted.right) == (wanted.strength, wanted.held_out, wanted.right)
    assert torch.allclose(fitted.weight, wanted.weight, atol=1e-3)
    assert fitted.temperature == pytest.approx(wanted.temperature, abs=1e-3)

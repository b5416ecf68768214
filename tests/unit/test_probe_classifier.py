"""The probes' classifier against scikit-learn's, its strength and temperature, and the embeddings it is fitted to."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from tests.unit.probe_parts import ALONE, Together, embeddings, loader_of, source_of
from ufgvc.core.errors import UserError
from ufgvc.data.augment import eval_view
from ufgvc.data.splits import assign_folds
from ufgvc.methods import build
from ufgvc.models.calibration import calibration_of_fit
from ufgvc.training import fit, logistic
from ufgvc.training.embeddings import Embeddings, embed_batches, embed_training_images
from ufgvc.training.fit import fit_classifier
from ufgvc.training.settings import TrainSettings, apply_overrides


@pytest.mark.parametrize("width", [7, 300], ids=["more rows", "more columns"])
@pytest.mark.parametrize(("chunk", "held"), [(512, 4096), (13, 4096), (13, 0)], ids=["few", "chunks", "many"])
@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_the_classifier_is_scikit_learns(
    strength: float, chunk: int, held: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logistic, "CHUNK", chunk)
    monkeypatch.setattr(logistic, "HELD", held)
    found = embeddings(width=width)
    wide, repeated = found.rows.reshape(-1, width).astype(float), np.repeat(found.labels, 2)
    scaler = StandardScaler().fit(wide)
    wanted = LogisticRegression(C=strength, tol=1e-8, max_iter=5000).fit(scaler.transform(wide), repeated)
    fitted = fit_classifier(found, assign_folds(found.labels, [None] * 60, 5, 0), 4, ALONE, (strength,))
    assert np.allclose(fitted.weight, wanted.coef_, atol=2e-3)
    bias = fitted.bias.numpy()
    assert np.allclose(bias - bias.mean(), wanted.intercept_ - wanted.intercept_.mean(), atol=2e-3)
    assert np.allclose(fitted.mean, scaler.mean_, rtol=1e-5)
    assert np.allclose(fitted.scale, scaler.scale_, rtol=1e-5)


def test_the_strength_has_the_least_held_out_loss() -> None:
    found = embeddings(seed=3)
    folds = assign_folds(found.labels, [None] * 60, fit.FOLDS, 0)
    folds[:4] = -1  # always trained on
    fitted = fit_classifier(found, folds, 4, ALONE)
    mean, scale = found.rows.reshape(-1, 7).mean(0), found.rows.reshape(-1, 7).std(0)
    losses, right, scored = [], [], []
    for strength in fit.STRENGTHS:
        loss = correct = 0.0
        scored.append([])
        for fold in range(fit.FOLDS):
            kept, held = folds != fold, folds == fold
            rows = ((found.rows - mean) / scale).astype(float)
            model = LogisticRegression(C=strength, tol=1e-8, max_iter=5000)
            model.fit(rows[kept].reshape(-1, 7), np.repeat(found.labels[kept], 2))
            logits = model.decision_function(rows[held].reshape(-1, 7)).reshape(-1, 2, 4).mean(1)
            scored[-1].append((logits, found.labels[held]))
            log_probabilities = torch.from_numpy(logits).log_softmax(1).numpy()
            loss -= log_probabilities[np.arange(held.sum()), found.labels[held]].sum()
            correct += (logits.argmax(1) == found.labels[held]).sum()
        losses.append(loss)
        right.append(correct)
    best = int(np.argmin(losses))
    assert fitted.strength == fit.STRENGTHS[best]
    assert fitted.held_out == (right[best], 56)
    logits, labels = (np.concatenate(column) for column in zip(*scored[best], strict=True))

    def log_loss(temperature: float) -> float:
        scaled = logits / temperature
        return float((np.log(np.exp(scaled).sum(1)) - scaled[np.arange(len(labels)), labels]).sum())

    grid = np.linspace(0.2, 5, 2401)
    assert fitted.temperature == pytest.approx(grid[np.argmin([log_loss(each) for each in grid])], abs=0.01)


def test_leaves_that_are_all_named_right_fit_no_temperature() -> None:
    found = embeddings()
    far = replace(found, rows=found.rows + 100 * np.eye(4, 7, dtype=np.float32)[found.labels][:, None])
    fitted = fit_classifier(far, assign_folds(found.labels, [None] * 60, fit.FOLDS, 0), 4, ALONE)
    assert (fitted.held_out, fitted.temperature) == ((60, 60), None)
    assert calibration_of_fit({"held_out_leaves": 60.0}) is None


def test_the_temperature_of_a_fit_is_the_models() -> None:
    found = calibration_of_fit({"held_out_leaves": 56.0, "temperature": 1.5, "loss": 0.1})
    assert found is not None
    assert (found.temperature, found.num_images, found.threshold) == (1.5, 56, None)


def test_where_nothing_can_be_held_out_there_is_a_default() -> None:
    fitted = fit_classifier(embeddings(4, 2), None, 4, ALONE)
    assert (fitted.strength, fitted.held_out) == (fit.DEFAULT_STRENGTH, None)
    assert fitted.right == 4


@pytest.mark.parametrize("width", [7, 300], ids=["more rows", "more columns"])
def test_a_cultivar_without_training_leaves_is_never_named(width: int) -> None:
    found = embeddings(width=width)
    folds = assign_folds(found.labels, [None] * 60, fit.FOLDS, 0)
    without = fit_classifier(found, folds, 5, ALONE)
    fitted = fit_classifier(found, folds, 4, ALONE)
    standardised = (torch.from_numpy(found.rows) - without.mean) / without.scale
    logits = standardised @ without.weight.T + without.bias
    assert logits.isfinite().all()
    assert not (logits.argmax(2) == 4).any()
    assert logits.softmax(2)[..., 4].max() < 0.01
    assert (without.strength, without.held_out, without.right) == (fitted.strength, fitted.held_out, fitted.right)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("width", [7, 300], ids=["more rows", "more columns"])
def test_rows_that_are_read_from_a_file_give_no_warning(width: int, tmp_path: Path) -> None:
    found = embeddings(width=width)
    folds = assign_folds(found.labels, [None] * 60, fit.FOLDS, 0)
    np.save(tmp_path / "rows.npy", found.rows)
    mapped = replace(found, rows=np.load(tmp_path / "rows.npy", mmap_mode="r"))
    wanted = fit_classifier(found, folds, 4, ALONE)
    torch.set_warn_always(True)  # else only the first such warning of a process is seen
    try:
        assert torch.equal(fit_classifier(mapped, folds, 4, ALONE).weight, wanted.weight)
    finally:
        torch.set_warn_always(False)


def test_embeddings_are_made_once_and_are_those_of_the_batches(tmp_path: Path) -> None:
    torch.manual_seed(0)
    method = build("part_probe", 3, backbone="resnet18", parts=2)
    method = replace(method, recipe=method.recipe.model_copy(update={"resize": 40, "crop": 32}))
    images = np.random.default_rng(0).integers(0, 255, (6, 40, 40, 3), dtype=np.uint8)
    loader = loader_of(source_of(images), tmp_path)
    streamed = embed_batches(method, loader, lambda raw: eval_view(raw, 32))
    first = embed_training_images(method, loader, ALONE)
    assert first.take(np.arange(3)).shape == (3, 2, method.net.classifier.in_features)
    order = np.argsort(streamed.positions)
    assert np.allclose(streamed.take(order), first.take(np.arange(3)), atol=1e-4)
    assert (streamed.labels[order] == first.labels).all()
    with torch.no_grad():
        wanted = method.net(torch.from_numpy(images[2:3, 4:36, 4:36]).permute(0, 3, 1, 2) / 255)["embedding"]
    assert np.allclose(first.take(np.array([1]))[0, 0], wanted[0], atol=1e-4)
    method.net.register_forward_pre_hook(lambda *_: pytest.fail("the network runs again"))
    again = embed_training_images(method, loader, ALONE)
    assert np.array_equal(again.take(np.arange(3)), first.take(np.arange(3)))


def test_two_ranks_fit_what_one_fits() -> None:
    found = embeddings()
    folds = assign_folds(found.labels, [None] * 60, fit.FOLDS, 0)
    wanted = fit_classifier(found, folds, 4, ALONE)
    together, results = Together(2), {}

    def run(number: int, part: slice) -> None:
        own = Embeddings(found.rows[part], found.labels[part], found.positions[part])
        results[number] = fit_classifier(own, folds[part], 4, together.rank(number))

    threads = [threading.Thread(target=run, args=(n, part)) for n, part in enumerate((slice(0, 25), slice(25, 60)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert torch.equal(results[0].weight, results[1].weight)
    assert torch.allclose(results[0].weight, wanted.weight, atol=1e-3)
    assert (results[0].strength, results[0].held_out, results[0].right) == (
        wanted.strength,
        wanted.held_out,
        wanted.right,
    )
    assert results[0].temperature == results[1].temperature == pytest.approx(wanted.temperature, abs=1e-3)


@pytest.mark.parametrize(("setting", "value"), [("epochs", 3), ("learning_rate", 0.1)])
def test_epochs_and_rates_are_refused(setting: str, value: float) -> None:
    recipe = build("linear_probe", 3, backbone="resnet18").recipe
    with pytest.raises(UserError, match="fitted to convergence") as caught:
        apply_overrides(recipe, TrainSettings.model_validate({setting: value}))
    assert f"leave `--train.{setting.replace('_', '-')}` out" in str(caught.value)

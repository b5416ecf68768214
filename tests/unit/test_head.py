"""`--train.head probe`: the last layer starts as the logistic regression on the net's own features."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from tests.golden.trainings import LEAVES
from tests.unit.probe_parts import Together
from tests.unit.test_methods import CLASSES, small, trainable
from tests.unit.test_modern_resume import Sink
from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store
from ufgvc.data.cache import CachedSource, DecodedSplit
from ufgvc.data.dataset import open_dataset
from ufgvc.methods import Method, build, names
from ufgvc.training import logistic
from ufgvc.training.ddp import Ranks
from ufgvc.training.head import evaluation_view, fit_head
from ufgvc.training.loader import BatchLoader
from ufgvc.training.metrics_file import read_metrics
from ufgvc.training.run import make_worker_config
from ufgvc.training.settings import TrainSettings, WorkerConfig
from ufgvc.training.worker import Worker

CPU = torch.device("cpu")
ALONE = Ranks(0, 1, CPU)
COUNT, SIDE, CROP = 30, 72, 64
TRAINED = np.arange(COUNT - 5)
# By itself it stops when the loss hardly falls, which leaves the logits about 0.3 % from where they go.
EXACTLY = {"maxiter": 20000, "ftol": 1e-16, "gtol": 1e-9}
WITHOUT = ("leaf_traits", "region_tokens", "linear_probe", "part_probe")


def photographs() -> tuple[np.ndarray, np.ndarray]:
    """Noise (30, 72, 72, 3) uint8 with a colour cast for each cultivar, and labels (30,)."""
    random = np.random.default_rng(0)
    labels = np.arange(COUNT, dtype=np.int64) % CLASSES
    casts = random.uniform(-25, 25, (CLASSES, 3))[labels][:, None, None]
    return (random.integers(30, 220, (COUNT, SIDE, SIDE, 3)) + casts).astype(np.uint8), labels


def prepared(name: str, **options: Any) -> Method:
    method = trainable(name, **options)
    for module in method.net.modules():  # statistics of random layers: else their outputs explode in evaluation
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = None
    images, _ = photographs()
    side = max(CROP, method.min_side)
    recipe = method.recipe.model_copy(update={"resize": max(SIDE, side), "crop": side})
    with torch.no_grad():
        method.net.train()(functional.interpolate(evaluation_view(torch.from_numpy(images), recipe), size=side))
    return replace(method, recipe=recipe)


def loader_of(images: np.ndarray, labels: np.ndarray, rank: int = 0, world: int = 1) -> BatchLoader:
    source = CachedSource(DecodedSplit(images, {}, {}), labels, TRAINED, 4, 0, rank, world, CPU)
    nothing: Any = None
    none = np.arange(0)
    groups = [None] * len(TRAINED)
    trained = labels[TRAINED]
    return BatchLoader(nothing, nothing, source, none, TRAINED, trained, groups, 0, None, none, none, CPU)


def logits_and_features(method: Method, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(logits (N, K), embedding (N, D)) float64 of photographs in evaluation."""
    with torch.no_grad():
        outputs = method.net.eval()(evaluation_view(torch.from_numpy(images), method.recipe))
    return outputs["logits"].double().numpy(), outputs["embedding"].double().numpy()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet50", {}),
        ("resnet50", {"pooling": "stages"}),
        ("mask_guided", {}),
        ("dcl", {}),
        ("maskcov", {}),
        ("contrast_views", {}),
        ("mobilenet_v2", {}),
        ("alexnet", {}),
        ("mpn_cov", {"dimension": 8}),
    ],
)
def test_the_logits_before_a_step_are_scikit_learns(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logistic, "CONVERGED", EXACTLY)
    method = prepared(name, **options)
    images, labels = photographs()
    before = copy.deepcopy(method.net.state_dict())
    _, features = logits_and_features(method, images)
    row = fit_head(method, loader_of(images, labels), ALONE, 0)
    logits, same = logits_and_features(method, images)
    assert np.array_equal(same, features), "only the last layer changes"
    heads = ("classifier", *method.added_heads)
    changed = {key for key, tensor in method.net.state_dict().items() if not torch.equal(tensor, before[key])}
    assert changed == {key for key in before if key.startswith(heads)}

    bias = method.net.classifier.bias is not None
    mean, scale = features[TRAINED].mean(0), features[TRAINED].std(0)
    scale[scale <= 1e-6 * np.maximum(np.abs(mean), 1e-6)] = 1.0  # of a channel that does not change
    standardised = (features - mean * bias) / scale
    model = LogisticRegression(C=row["head_strength"], tol=1e-8, max_iter=5000, fit_intercept=bias)
    wanted = model.fit(standardised[TRAINED], labels[TRAINED]).decision_function(standardised)
    # A constant for all classes changes no probability.
    error = (logits - logits.mean(1, keepdims=True)) - (wanted - wanted.mean(1, keepdims=True))
    assert np.abs(error[TRAINED]).max() < 2e-3 * max(1, np.abs(wanted).max())
    assert row["head_train_accuracy"] == pytest.approx((wanted[TRAINED].argmax(1) == labels[TRAINED]).mean())
    assert 0 <= row["head_held_out_accuracy"] <= 1


@pytest.mark.parametrize("name", names())
def test_a_linear_head_is_one_layer_of_the_embedding(name: str) -> None:
    method = prepared(name)
    assert method.has_linear_head == (name not in WITHOUT)
    if not method.has_linear_head:
        return
    for each in method.added_heads:
        torch.nn.init.zeros_(method.net.get_submodule(each).weight)
    side = method.recipe.crop
    with torch.no_grad():
        outputs = method.net.eval()(torch.rand(2, 3, side, side))
        assert torch.allclose(outputs["logits"], method.net.classifier(outputs["embedding"]), atol=1e-5)


def test_leaves_that_are_held_out_change_nothing() -> None:
    images, labels = photographs()
    method = prepared("resnet50")
    fit_head(method, loader_of(images, labels), ALONE, 0)
    first = method.net.classifier.weight.clone()
    images[len(TRAINED) :], labels[len(TRAINED) :] = 0, 1
    fit_head(method, loader_of(images, labels), ALONE, 0)
    assert torch.equal(method.net.classifier.weight, first)


def test_two_ranks_have_the_same_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic, "CONVERGED", EXACTLY)
    images, labels = photographs()
    method, heads = prepared("resnet50"), {}
    together = Together(2)

    def run(rank: int) -> None:
        own = replace(method, net=copy.deepcopy(method.net))
        row = fit_head(own, loader_of(images, labels, rank, 2), together.rank(rank), 0)
        heads[rank] = own.net.classifier.weight.detach(), row

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    row = fit_head(method, loader_of(images, labels), ALONE, 0)
    assert torch.equal(heads[0][0], heads[1][0])
    assert heads[0][1] == heads[1][1] == row
    assert torch.allclose(heads[0][0], method.net.classifier.weight, atol=1e-3)


def configuration(folder: Path, method: str = "resnet50", **settings: Any) -> tuple[WorkerConfig, dict[str, Any]]:
    dataset = open_dataset(str(LEAVES))
    options = {"backbone": "shufflenet_v2_x0_5"} if method == "resnet50" else {}
    built = build(method, len(dataset.classes), init="none", **options)
    train = {"init": "none", "epochs": 2, "batch_size": 6, "resize": 72, "crop": 64, "device": "cpu", "cache": "host"}
    if built.recipe.classifier_fit:
        del train["epochs"]
    config, identity = make_worker_config(
        dataset, built, TrainSettings.model_validate(train | settings), seed=0, masks=None, runs=str(folder)
    )
    return replace(config, cores=1), identity


def test_only_a_fitted_head_changes_the_key(tmp_path: Path) -> None:
    assert "head" not in TrainSettings().result_affecting()
    plain, random, probe = (configuration(tmp_path, **each)[1] for each in ({}, {"head": "random"}, {"head": "probe"}))
    assert plain["key"] == random["key"] != probe["key"]


@pytest.mark.parametrize("name", WITHOUT)
def test_methods_without_such_a_layer_say_so(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        configuration(tmp_path, name, head="probe")
    text = str(caught.value)
    assert name in text
    assert "train.head" in text
    assert "leave `--train.head` out" in text


@pytest.mark.parametrize("recipe", ["published", "modern"])
def test_a_training_starts_from_it_and_resumes(recipe: str, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    try:
        config, _ = configuration(tmp_path, head="probe", recipe=recipe, validation="holdout")
        whole = Worker.start(config, 0, 1, 1, CPU, None, Sink())
        start = whole.method.net.classifier.weight.detach().clone()
        if whole.average is not None:
            assert torch.equal(whole.average.net.classifier.weight, start), "the average begins at the fitted head"
        whole.run()
        first = Worker.start(config, 0, 1, 1, CPU, None, Sink())
        assert torch.equal(first.method.net.classifier.weight, start)
        first.step()
        first.save()
        second = Worker.start(config, 0, 1, 1, CPU, first.sink.state, Sink())
        second.run()
    finally:
        torch.set_num_threads(threads)
    rows = read_metrics(open_store(config.run))
    assert {"head_strength", "head_train_accuracy", "head_held_out_accuracy"} <= rows[0].keys()
    assert "head_strength" not in rows[1]
    wanted, found = whole.sink.state["net"], second.sink.state["net"]
    assert not torch.equal(wanted["classifier.weight"], start)
    assert all(torch.equal(found[key], tensor) for key, tensor in wanted.items())


@pytest.mark.parametrize("view", ["resize", "center_crop"])
def test_leaves_are_seen_as_in_evaluation(view: str) -> None:
    images = torch.from_numpy(photographs()[0][:2])
    recipe = small("resnet50").recipe.model_copy(update={"resize": SIDE, "crop": 36, "eval_view": view})
    seen = evaluation_view(images, recipe)
    wanted = images.permute(0, 3, 1, 2).float() / 255
    if view == "resize":  # half the side: the mean over triangles, here nearly that of pairs of pixels
        wanted = functional.interpolate(wanted, size=(36, 36), mode="bilinear", antialias=True)
    else:
        wanted = wanted[:, :, 18:54, 18:54]
    assert torch.allclose(seen, wanted, atol=1e-6)

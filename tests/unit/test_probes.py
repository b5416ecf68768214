"""The linear probes: stages, statistics inside regions, parts of the leaf, and the fitted classifier."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store
from ufgvc.data.augment import eval_view
from ufgvc.data.cache import CachedSource, DecodedSplit
from ufgvc.data.dataset import Dataset, Shard
from ufgvc.data.splits import assign_folds
from ufgvc.methods import build
from ufgvc.methods.backbones import build_backbone
from ufgvc.methods.layers.leaf_parts import leaf_parts
from ufgvc.methods.layers.leaf_segmentation import find_leaf
from ufgvc.methods.layers.stages import StageMaps, choose_stages, list_stages, region_statistics
from ufgvc.models.calibration import calibration_of_fit
from ufgvc.training import fit, logistic
from ufgvc.training.ddp import Ranks
from ufgvc.training.embeddings import Embeddings, embed_batches, embed_training_images
from ufgvc.training.fit import fit_classifier
from ufgvc.training.loader import BatchLoader
from ufgvc.training.settings import TrainSettings, apply_overrides

CPU = torch.device("cpu")
ALONE = Ranks(0, 1, CPU)


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("resnet18", [(64, 2), (64, 4), (64, 4), (128, 8), (256, 16), (512, 32)]),
        (
            "efficientnet_lite0",
            [(32, 2), (16, 2), (24, 4), (40, 8), (80, 16), (112, 16), (192, 32), (320, 32)],
        ),
    ],
)
def test_stages_of_a_backbone(name: str, shapes: list[tuple[int, int]]) -> None:
    stages = list_stages(build_backbone(name, "none"))
    found = [(stage.channels, stage.stride) for stage in stages]
    assert [each for n, each in enumerate(found) if n == 0 or each != found[n - 1]] == list(dict.fromkeys(shapes))
    deep = [each for each in found if each[1] >= 8]
    assert [(each.channels, each.stride) for each in choose_stages(stages, (), with_last=True)] == deep
    assert [(each.channels, each.stride) for each in choose_stages(stages, (), with_last=False)] == deep[:-1]


@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224", "swin_t"])
def test_a_transformer_has_its_last_map(name: str) -> None:
    backbone = build_backbone(name, "none")
    *_, last = list_stages(backbone)
    assert last.channels == backbone.channels


def test_a_stage_that_there_is_not_is_one_message() -> None:
    with pytest.raises(UserError, match="the backbone has no stage 99") as caught:
        build("linear_probe", 3, backbone="resnet18", stages=(4, 99))
    assert "channels, stride 32" in str(caught.value)


def test_maps_are_those_of_the_stages() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("resnet18", "none").eval()
    images = torch.rand(2, 3, 64, 64)
    maps = StageMaps(choose_stages(list_stages(backbone), (), with_last=True)).run(backbone, images)
    trunk, wanted = backbone.trunk, backbone.normalise(images)
    for name in ("conv1", "bn1", "relu", "maxpool", "layer1"):
        wanted = getattr(trunk, name)(wanted)
    for name, found in zip(("layer2", "layer3", "layer4"), maps, strict=True):
        wanted = getattr(trunk, name)(wanted)
        assert torch.equal(found, wanted), name


def test_statistics_are_weighted_means_and_standard_deviations() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, channels, side, side, generator=generator) + 50 for channels, side in ((3, 8), (5, 4))]
    regions = torch.rand(2, 2, 16, 16, generator=generator)
    regions[1, 1] = 0
    found = region_statistics(maps, regions).double().numpy()
    for image in range(2):
        wanted: list[float] = []
        for each in maps:
            channels, side = each.shape[1:3]
            step = 16 // side
            for region in range(2):
                weights = np.zeros((side, side))
                for row in range(side):
                    for column in range(side):
                        cell = regions[
                            image, region, row * step : (row + 1) * step, column * step : (column + 1) * step
                        ]
                        weights[row, column] = float(cell.double().mean())
                values = each[image].double().numpy()
                if weights.sum() == 0:
                    wanted += [0.0] * channels + [1e-4] * channels
                    continue
                mean = [(weights * values[c]).sum() / weights.sum() for c in range(channels)]
                variance = [(weights * (values[c] - mean[c]) ** 2).sum() / weights.sum() for c in range(channels)]
                wanted += [*mean, *np.sqrt(np.maximum(variance, 1e-8))]
        assert np.allclose(found[image], wanted, atol=1e-4)


@pytest.mark.parametrize("parts", [1, 3])
def test_parts_add_up_to_the_leaf_and_are_equal(parts: int) -> None:
    images = torch.ones(2, 3, 60, 40)
    images[0, :, 7:53, 10:30] = 0.2  # a rectangle
    images[1, :, 5:35, 18:22] = 0.1  # a stalk above a blade
    images[1, :, 35:55, 5:35] = 0.1
    found, leaf = leaf_parts(images, parts), find_leaf(images)
    assert torch.allclose(found.sum(dim=1, keepdim=True), leaf, atol=1e-5)
    area = found.sum(dim=(2, 3))
    assert torch.allclose(area, area.mean(dim=1, keepdim=True).expand_as(area), rtol=1e-4)
    for image in range(2):  # from top to bottom: row by row, from the definition
        rows = leaf[image, 0].double().sum(dim=1)
        passed = 0.0
        for row, amount in enumerate(rows.tolist()):
            for part in range(parts):
                low, high = rows.sum().item() * part / parts, rows.sum().item() * (part + 1) / parts
                inside = max(0.0, min(passed + amount, high) - max(passed, low))
                assert found[image, part, row].sum().item() == pytest.approx(inside, abs=1e-3)
            passed += amount


def test_a_photograph_without_a_leaf_is_all_leaf() -> None:
    plain = leaf_parts(torch.full((1, 3, 30, 30), 0.5), 3)
    assert torch.allclose(plain.sum(dim=1), torch.ones(1, 30, 30), atol=1e-5)


def embeddings(count: int = 60, views: int = 2, width: int = 7, classes: int = 4, seed: int = 0) -> Embeddings:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    rows = rng.normal(0, 1, (count, views, width)) + rng.normal(0, 0.6, (classes, width))[labels][:, None]
    rows = rows * rng.uniform(0.1, 30, width) + 5
    return Embeddings(rows.astype(np.float32), labels, np.arange(count))


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


def config_of(folder: Path, count: int, rows: int = 100) -> Any:
    """Of a training on a data set whose shards hold `rows` images each; its photographs are never read."""
    sizes = [min(rows, count - at) for at in range(0, count, rows)]
    parts = tuple(Shard(f"train-{k:05d}", f"{k}.parquet", "train", size) for k, size in enumerate(sizes))
    dataset = Dataset(open_store(folder), "leaves", ("a", "b", "c"), "fingerprint", parts, {"train": count})
    return SimpleNamespace(open_dataset=lambda: dataset, split="train", embeddings=None, cache_folder=str(folder))


def loader_of(source: Any, folder: Path) -> BatchLoader:
    """Of the images 0, 2 and 5 of six."""
    rows, nothing = np.array([0, 2, 5]), np.arange(0)
    recipe: Any = None
    rest = nothing, rows, rows % 3, [None] * 3, 0, None, nothing, nothing, CPU
    return BatchLoader(config_of(folder, 6), recipe, source, *rest)


def source_of(images: np.ndarray) -> CachedSource:
    """Of the images 0, 2 and 5 of six."""
    return CachedSource(DecodedSplit(images, {}, {}), np.arange(6) % 3, np.array([0, 2, 5]), 2, 0, 0, 1, CPU)


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


@dataclass
class Together:
    """Sums over threads, as torch.distributed sums over ranks."""

    count: int
    barrier: threading.Barrier = field(init=False)
    values: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.count)

    def rank(self, number: int) -> Any:
        outer = self

        class Rank:
            rank, world_size, device = number, outer.count, CPU

            def gather(self, value: Any) -> list[Any]:
                outer.values[number] = value
                outer.barrier.wait(60)
                gathered = [outer.values[each] for each in range(outer.count)]
                outer.barrier.wait(60)
                return gathered

            def sum(self, value: Tensor) -> Tensor:
                return value.copy_(torch.stack(self.gather(value.clone())).sum(0))

        return Rank()


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

"""The regions of a linear probe: a finder that is fitted to masks, and statistics inside what it finds."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from tests.golden.trainings import LEAVES
from tests.unit.probe_parts import ALONE, CPU, Together, loader_of, source_of
from ufgvc.data.augment import eval_view
from ufgvc.data.cache import CachedSource, DecodedSplit, load_decoded_split
from ufgvc.data.crops import unpack
from ufgvc.data.dataset import open_dataset, read_index, read_manifest
from ufgvc.methods import build
from ufgvc.methods.method import Method
from ufgvc.models.format import save_model
from ufgvc.models.model import export_to_onnx, load_model
from ufgvc.training.embeddings import embed_training_images
from ufgvc.training.fit_regions import fit_regions
from ufgvc.training.in_process import train_in_process
from ufgvc.training.run import make_worker_config
from ufgvc.training.settings import TrainSettings


def blobs(count: int, side: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey images (N, side, side, 3) uint8 with a bright rectangle, and masks (N, side, side) bool of it."""
    rng = np.random.default_rng(seed)
    images = rng.integers(60, 90, (count, side, side, 3), dtype=np.uint8)
    masks = np.zeros((count, side, side), bool)
    for image, mask in zip(images, masks, strict=True):
        top, left = rng.integers(0, side // 2, 2)
        mask[top : top + side // 3, left : left + side // 2] = True
        image[mask] += 120
    return images, masks


def probe_on_regions(backbone: str = "resnet18", stages: tuple[int, ...] = (3, 4)) -> Method:
    torch.manual_seed(0)
    method = build("linear_probe", 3, backbone=backbone, regions=("vein", "contour"), stages=stages)
    return replace(method, recipe=method.recipe.model_copy(update={"resize": 72, "crop": 64}))


def fit_finder(
    method: Method, count: int = 24, without: int = 0, ranks: Any = ALONE, part: slice = slice(None)
) -> Method:
    """Fits the finder of a probe on `blobs`; the last `without` of them have no mask. Returns the method."""
    images, masks = blobs(count, 72, 0)
    has = np.arange(count) < count - without
    packed = np.packbits(masks, axis=2)
    split = DecodedSplit(images, {"vein": packed, "contour": ~packed}, {"vein": has, "contour": np.zeros(count, bool)})
    source = CachedSource(split, np.arange(count) % 3, np.arange(count)[part], 7, 0, 0, 1, CPU)
    fit_regions(method, loader_of(source, Path()), ranks)
    return method


def test_the_finder_is_a_ridge_regression_on_cells_with_a_mask() -> None:
    method = fit_finder(probe_on_regions(), without=4)
    images, masks = blobs(24, 72, 0)
    rows, shares = [], []
    for number in range(20):
        view = torch.from_numpy(images[number, 4:68, 4:68]).permute(2, 0, 1)[None] / 255
        for flip in (False, True):
            with torch.no_grad():
                maps = method.net.maps.run(method.net.backbone, view.flip(3) if flip else view)
            side = maps[-1].shape[2]
            for row in range(side):
                for column in range(side):
                    values: list[float] = []
                    for each in maps:
                        step = each.shape[2] // side
                        cell = each[0, :, row * step : (row + 1) * step, column * step : (column + 1) * step]
                        values += cell.double().mean((1, 2)).tolist()
                    y, x = -1 + 2 * row / (side - 1), -1 + 2 * column / (side - 1)
                    rows.append([*values, x, y, x * x, x * y, y * y])
                    step = 64 // side
                    mask = masks[number, 4:68, 4:68]
                    mask = mask[:, ::-1] if flip else mask
                    shares.append(mask[row * step : (row + 1) * step, column * step : (column + 1) * step].mean())
    wide, target = np.array(rows), np.array(shares)
    spread = wide.std(0)
    usual = (target**2).sum() / target.sum()
    ridge = Ridge(alpha=0.01 * len(wide), tol=1e-12).fit((wide - wide.mean(0)) / spread, target / usual)
    assert np.allclose(method.net.finder.weight[0] * spread, ridge.coef_, atol=1e-4)
    wanted = ridge.predict((wide - wide.mean(0)) / spread)
    assert np.allclose(
        wide @ method.net.finder.weight[0].double().numpy() + float(method.net.finder.bias[0]), wanted, atol=1e-3
    )


def test_regions_are_found_on_new_images(caplog: pytest.LogCaptureFixture) -> None:
    method = fit_finder(probe_on_regions())
    assert "no training leaf has a mask of the contour" in caplog.text
    images, masks = blobs(8, 64, 1)
    view = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        maps = method.net.maps.run(method.net.backbone, view)
        found = method.net.finder(maps, (64, 64))
    inside = found[:, 0].numpy() > 0.5
    assert (inside & masks).sum() / (inside | masks).sum() > 0.5
    assert (found[:, 1] == 1).all()  # never found: the whole picture
    with torch.no_grad():
        embedding = method.net(view)["embedding"]
    channels = [each.shape[1] for each in maps]
    for part in embedding.split([6 * each for each in channels], dim=1):
        whole, vein, contour = part.chunk(3, dim=1)
        assert torch.allclose(whole, contour, atol=1e-5)
        assert not torch.allclose(whole, vein, atol=1e-2)


def test_two_ranks_find_what_one_finds() -> None:
    methods = [probe_on_regions() for _ in range(3)]
    alone, together = fit_finder(methods[2]), Together(2)

    def run(number: int, part: slice) -> None:
        fit_finder(methods[number], ranks=together.rank(number), part=part)

    threads = [threading.Thread(target=run, args=(n, part)) for n, part in enumerate((slice(0, 10), slice(10, 24)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    weights = [method.net.get_submodule("finder").weight for method in (*methods[:2], alone)]
    assert torch.equal(weights[0], weights[1])
    assert torch.allclose(weights[0], weights[2], atol=1e-4)


def test_embeddings_depend_on_the_finder(tmp_path: Path) -> None:
    method = fit_finder(probe_on_regions())
    images, _ = blobs(6, 72, 2)
    loader = loader_of(source_of(images), tmp_path)
    first = embed_training_images(method, loader, ALONE).take(np.arange(3))
    method.net.finder.bias.fill_(-1.0)
    second = embed_training_images(method, loader, ALONE).take(np.arange(3))
    assert not np.allclose(first, second)
    assert len(list(tmp_path.glob("*.embeddings-*/*.npy"))) == 2


def test_a_probe_on_regions_is_saved_and_exported_as_one_network(tmp_path: Path) -> None:
    method = fit_finder(probe_on_regions("alexnet", (3, 6)))  # it has the fewest layers to export
    with torch.no_grad():
        method.net.classifier.weight.normal_()
    save_model(tmp_path, method, classes=["a", "b", "c"], input={"resize": 72, "size": 64})
    model = load_model(str(tmp_path))
    images = list(blobs(4, 90, 3)[0])
    view = model.view(images)
    logits = torch.from_numpy(model.logits(images))  # outside of inference mode, whose weights are exported twice
    with torch.inference_mode():
        assert torch.allclose(logits, method.predict(view), atol=1e-4)
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    exported, parity = export_to_onnx(model)
    assert parity.holds
    assert np.allclose(exported.logits(images), model.logits(images), atol=1e-3)


@pytest.mark.parametrize("cache", ["host", "none"])
def test_a_training_fits_the_finder_and_then_the_classifier(cache: str, tmp_path: Path) -> None:
    dataset = open_dataset(str(LEAVES))
    options = {"backbone": "resnet18", "regions": ("contour",), "stages": (3,)}
    method = build("linear_probe", len(dataset.classes), init="none", **options)
    settings = TrainSettings.model_validate(
        {"init": "none", "crop": 64, "device": "cpu", "cache": cache, "mask_kind": "exact"}
    )
    masks = read_manifest(dataset, "masks/exact").fingerprint
    config, _ = make_worker_config(dataset, method, settings, seed=0, masks=masks, runs=str(tmp_path))
    threads = torch.get_num_threads()
    try:
        state = train_in_process(replace(config, cores=1), torch.device("cpu"))
    finally:
        torch.set_num_threads(threads)
    assert state["net"]["finder.weight"].abs().max() > 0
    (row,) = state["history"]
    assert row["held_out_leaves"] == dataset.counts["train"]
    assert ("temperature" in row) == (row["held_out_accuracy"] < 1)
    method.net.load_state_dict(state["net"])
    images = load_decoded_split(dataset, "train", 64, "exact", masks, tmp_path)
    view = eval_view(torch.from_numpy(np.array(images.images)), 64)
    labels = read_index(dataset, "train")["label"].to_numpy()
    with torch.no_grad():
        named = method.net.eval()(view)["logits"].argmax(1).numpy()
        found = method.net.get_submodule("finder")(method.net.maps.run(method.net.backbone, view), (64, 64))[:, 0]
    assert (named == labels).mean() == pytest.approx(row["train_accuracy"], abs=0.12)  # that is with mirror images
    wanted = unpack(torch.from_numpy(np.array(images.packed_masks["contour"])), 64).float()
    inside, outside = (found * wanted).sum() / wanted.sum(), (found * (1 - wanted)).sum() / (1 - wanted).sum()
    assert inside > 1.5 * outside

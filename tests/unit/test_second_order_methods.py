"""B-CNN and fast-MPN-COV as methods: precision, backbones, stages, options (formulas: test_second_order.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional
from torchvision import models

from tests.unit.test_second_order import HEADS
from ufgvc.core.errors import UserError
from ufgvc.methods import Batch, build, options_class
from ufgvc.training.optim import make_optimizer, train_mode
from ufgvc.training.steps import train_step


@pytest.mark.parametrize("name", HEADS)
def test_under_autocast_the_head_stays_in_float32(name: str):
    torch.manual_seed(0)
    small = {"dimension": 16} if name == "mpn_cov" else {}
    method = build(name, 3, backbone="resnet18" if small else "alexnet", **small)
    net = method.net.eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = net(torch.rand(2, 3, 64, 64))
        seen = net.reduce(outputs["features"]) if small else outputs["features"]
    assert seen.dtype == torch.bfloat16, "the convolutions are where autocast is to work"
    assert outputs["embedding"].dtype == outputs["logits"].dtype == torch.float32
    assert torch.equal(outputs["embedding"], HEADS[name](seen.float()))
    assert torch.equal(outputs["logits"], net.classifier(outputs["embedding"]))
    outputs["logits"].sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in net.parameters())


def on_meta(name: str, side: int, **options: object) -> torch.Size:
    """The shape of the last map, without computing it."""
    return build(name, 2, **options).net.backbone.to("meta")(torch.empty(1, 3, side, side, device="meta")).shape


def test_bcnn_drops_the_last_pooling_and_keeps_the_names(tmp_path: Path):
    assert on_meta("bcnn", 448) == (1, 512, 28, 28)
    assert on_meta("improved_bcnn", 448, backbone="vgg11") == (1, 512, 28, 28)
    assert on_meta("resnet50", 448, backbone="vgg16") == (1, 512, 14, 14)
    mine = build("bcnn", 2).net.backbone.trunk.state_dict()
    with torch.device("meta"):
        theirs = models.vgg16().state_dict()
    assert {name: tensor.shape for name, tensor in mine.items()} == {
        name: tensor.shape for name, tensor in theirs.items() if name.startswith("features.")
    }
    plain = build("resnet50", 2, backbone="alexnet").net
    save_file(plain.state_dict(), tmp_path / "net.safetensors")
    started = build("bcnn", 4, init=str(tmp_path / "net.safetensors"), backbone="alexnet").net
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(functional.max_pool2d(started.backbone(images), 3, 2), plain.backbone(images))


def test_first_stage_leaves_the_backbone_alone_and_the_second_does_not():
    torch.manual_seed(0)
    method = build("bcnn", 3, backbone="vgg11_bn")  # its BatchNorm has statistics that could drift
    batch = Batch(torch.rand(3, 3, 32, 32), torch.arange(3))
    first, second = method.recipe.stages
    for stage, moves in ((first, False), (second, True)):
        before = {name: tensor.clone() for name, tensor in method.net.state_dict().items()}
        optimizer = make_optimizer(method, stage)
        train_mode(method, method.net, stage)
        train_step(method, method.net, batch, optimizer)
        changed = {name for name, tensor in method.net.state_dict().items() if not torch.equal(tensor, before[name])}
        assert {"classifier.weight", "classifier.bias"} <= changed
        assert {name.split(".")[0] for name in changed} == ({"classifier", "backbone"} if moves else {"classifier"})


@pytest.mark.parametrize(("backbone", "channels"), [("resnet18", 512), ("resnet50", 2048), ("mobilenet_v2", 1280)])
def test_last_stride(backbone: str, channels: int):
    assert on_meta("mpn_cov", 448, backbone=backbone) == (1, channels, 28, 28)
    assert on_meta("mpn_cov", 448, backbone=backbone, last_stride=2) == (1, channels, 14, 14)
    names = build("mpn_cov", 2, backbone=backbone).net.backbone.trunk.state_dict().keys()
    head = ("fc.", "classifier.")
    assert names == {name for name in models.get_model(backbone).state_dict() if not name.startswith(head)}


@pytest.mark.parametrize(
    "backbone", ["alexnet", "vgg11", "densenet121", "inception_v3", "convnext_tiny", "squeezenet1_1"]
)
def test_a_backbone_that_pools_before_its_last_stage_keeps_its_map(backbone: str):
    with pytest.raises(UserError, match=rf"last_stride: {backbone} has no last stage"):
        build("mpn_cov", 2, backbone=backbone, last_stride=1)
    found, asked = (build("mpn_cov", 2, backbone=backbone, last_stride=given) for given in (None, 2))
    assert found.options == asked.options
    assert found.options["last_stride"] == 2
    maps = [
        method.net.backbone.eval().to("meta")(torch.empty(1, 3, 96, 96, device="meta")) for method in (found, asked)
    ]
    assert maps[0].shape == maps[1].shape


@pytest.mark.parametrize("name", ["bcnn", "improved_bcnn"])
def test_bcnn_reduces_the_channels_of_a_wide_backbone(name: str):
    torch.manual_seed(0)
    method = build(name, 3, backbone="resnet18", dimension=16)
    assert method.head == ("reduce", "classifier")
    outputs = method.net.eval()(torch.rand(2, 3, 64, 64))
    assert outputs["features"].shape == (2, 512, 2, 2)
    assert outputs["embedding"].shape == (2, 256)
    reduced = method.net.reduce(outputs["features"])
    assert torch.equal(outputs["embedding"], HEADS[name](reduced))
    assert "reduce.0.weight" not in build(name, 3, backbone="alexnet").net.state_dict()


def test_bad_options_are_reported():
    for name, options in (
        ("improved_bcnn", {"iterations": 0}),
        ("mpn_cov", {"dimension": 1}),
        ("mpn_cov", {"last_stride": 3}),
    ):
        with pytest.raises(UserError, match=next(iter(options))):
            build(name, 2, **options)


@pytest.mark.parametrize("name", ["bcnn", "improved_bcnn"])
def test_the_published_settings_of_bcnn(name: str):
    method = build(name, 3, backbone="alexnet")
    first, second = method.recipe.stages
    assert (first.epochs, first.lr, first.weight_decay, first.frozen) == (55, 1.0, 1e-8, ("backbone",))
    assert (second.epochs, second.lr, second.weight_decay, second.frozen) == (25, 1e-2, 1e-5, ())
    for stage in (first, second):
        assert (stage.momentum, stage.head_lr_factor, stage.schedule, stage.gamma, stage.patience) == (
            0.9,
            1.0,
            "plateau",
            0.1,
            3,
        )
    assert (method.recipe.batch_size, method.recipe.resize, method.recipe.crop, method.recipe.mirror) == (
        64,
        448,
        448,
        False,
    )
    assert options_class(name).model_fields["backbone"].default == "vgg16"


def test_the_published_settings_of_fast_mpn_cov():
    method = build("mpn_cov", 3, backbone="resnet18")
    (stage,) = method.recipe.stages
    assert (stage.epochs, stage.lr, stage.head_lr_factor, stage.momentum) == (100, 1.2e-3, 5.0, 0.9)
    assert (stage.weight_decay, stage.schedule) == (1e-4, "constant")
    assert (method.recipe.batch_size, method.recipe.resize, method.recipe.crop, method.recipe.mirror) == (
        10,
        448,
        448,
        True,
    )
    assert (method.options["last_stride"], method.options["dimension"], method.options["iterations"]) == (1, 256, 5)
    assert method.is_head("reduce.0.weight")
    assert method.net.classifier.in_features == 32_896

"""Pooling over stages: against loops in float64, copies of the net, and what is refused."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from torch import nn

from tests.unit.test_methods import CLASSES, small, tiny_batch
from ufgvc.core.errors import UserError
from ufgvc.methods import build
from ufgvc.methods.backbones import build_backbone
from ufgvc.methods.layers.stages import StagePool, list_stages
from ufgvc.training.optim import make_optimizer
from ufgvc.training.steps import train_step


def test_against_loops():
    torch.manual_seed(0)
    backbone = build_backbone("resnet18", "none").eval()
    pool, seen = StagePool(backbone), []
    trunk = backbone.trunk
    for layer in (trunk.layer2, trunk.layer3):  # the last blocks of strides 8 and 16
        layer.register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.no_grad():
        features = backbone(torch.rand(2, 3, 64, 64))
        found = pool(features)
    assert found.shape == (2, pool.width) == (2, 2 * (128 + 256) + 512)
    for b in range(2):
        wanted: list[float] = []
        for each in seen:
            cells = each[b].flatten(1).double().tolist()
            means = [math.fsum(values) / len(values) for values in cells]
            stds = [
                math.sqrt(math.fsum((x - mean) ** 2 for x in values) / len(values) + 1e-5)
                for values, mean in zip(cells, means, strict=True)
            ]
            both = means + stds
            centre = math.fsum(both) / len(both)
            spread = math.sqrt(math.fsum((x - centre) ** 2 for x in both) / len(both) + 1e-5)
            wanted += [(x - centre) / spread for x in both]
        wanted += features[b].flatten(1).double().mean(dim=1).tolist()
        assert found[b].tolist() == pytest.approx(wanted, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", ["resnet50", "contrast_views"])
@pytest.mark.parametrize("backbone", ["resnet18", "efficientnet_lite0", "timm:vit_tiny_patch16_224"])
def test_every_parameter_gets_a_finite_gradient(name: str, backbone: str):
    method = small(name, backbone=backbone, pooling="stages")
    batch = method.views(tiny_batch(method))
    outputs = method.net.train()(batch.images)
    assert outputs["embedding"].shape[1] == method.net.classifier.in_features
    parts = method.losses(outputs, batch)
    sum(method.loss_weights[part] * total / count for part, (total, count) in parts.items()).backward()
    for key, parameter in method.net.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key


def test_a_dead_channel_has_a_finite_gradient():
    backbone = build_backbone("resnet18", "none").train()
    pool = StagePool(backbone)
    last = [module for module in backbone.trunk.layer3.modules() if isinstance(module, nn.BatchNorm2d)][-1]
    nn.init.zeros_(last.weight)
    nn.init.constant_(last.bias, -100.0)  # its ReLU is 0 everywhere
    pool(backbone(torch.rand(2, 3, 64, 64))).square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in backbone.parameters())


@pytest.mark.parametrize(("name", "options"), [("resnet50", {"pooling": "stages"}), ("linear_probe", {})])
def test_a_copy_of_the_net_uses_its_own_weights(name: str, options: dict[str, str]):
    method = small(name, **options)
    net, images = method.net.eval(), tiny_batch(method).images
    file = io.BytesIO()
    torch.save(net, file)
    copies = [copy.deepcopy(net), torch.load(io.BytesIO(file.getvalue()), weights_only=False)]
    with torch.no_grad():
        before = net(images)["logits"]
        for one in copies:
            assert torch.equal(one(images)["logits"], before)
            for parameter in one.backbone.parameters():
                parameter.zero_()
            assert not torch.equal(one(images)["logits"], before)
        assert torch.equal(net(images)["logits"], before)


def test_one_batch_can_be_overfitted():
    method = small("resnet50", pooling="stages")
    batch = tiny_batch(method, 8)
    optimizer = make_optimizer(method, method.recipe.stages[0].model_copy(update={"lr": 0.01}))
    method.net.train()
    for _ in range(60):
        done = train_step(method, method.net, batch, optimizer)
        total, count = done.losses["classification"]
        if done.correct == done.count and total / count < 0.05:
            break
    assert done.correct == done.count
    assert total / count < 0.05


def test_stages_that_there_are_not_and_stages_that_nobody_pools():
    with pytest.raises(UserError, match="the backbone has no stage 9"):
        build("resnet50", CLASSES, backbone="resnet18", pooling="stages", stages=(9,))
    with pytest.raises(UserError, match="pooled with `pooling: stages` only"):
        build("resnet50", CLASSES, backbone="resnet18", stages=(2,))


def test_a_transformer_whose_patches_do_not_divide_the_usual_side_has_its_stage():
    (stage,) = list_stages(build_backbone("timm:eva02_tiny_patch14_224", "none"))
    assert (stage.channels, stage.stride) == (192, 14)

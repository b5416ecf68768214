"""AlexNet, VGG, MobileNetV2 and Inception against torchvision's own nets, and their weights from files."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from tests.unit.test_methods import tiny_batch
from ufgvc.core.errors import UserError
from ufgvc.methods import Batch, Method, build
from ufgvc.methods.backbones import Normalise, build_backbone
from ufgvc.methods.inception_v3 import MIDDLE_SIDE, enlarge
from ufgvc.methods.weights import kaiming_init_

CLASSES = 5
NARROW = {"alexnet": {"hidden": 8}, "vgg16": {"hidden": 8}}
PLAIN = ("alexnet", "vgg16", "resnet50", "inception_v3", "mobilenet_v2")
# What torchvision calls the layers that are new in our nets.
HEADS = {
    "alexnet": ("classifier.6.",),
    "vgg16": ("classifier.6.",),
    "resnet50": ("fc.",),
    "inception_v3": ("fc.", "AuxLogits.fc."),
    "mobilenet_v2": ("classifier.1.",),
}


def torchvisions(name: str) -> nn.Module:
    """torchvision's classifier with random weights; AlexNet and VGG with 8 hidden units, to save time."""
    with torch.device("meta"):
        model = models.get_model(name, weights=None, **({"init_weights": False} if name == "inception_v3" else {}))
        if name in NARROW:
            layers = [index for index, layer in enumerate(model.classifier) if isinstance(layer, nn.Linear)]
            for index, inputs, outputs in zip(
                layers, (model.classifier[layers[0]].in_features, 8, 8), (8, 8, 1000), strict=True
            ):
                model.classifier[index] = nn.Linear(inputs, outputs)
    torch.manual_seed(3)
    return kaiming_init_(model.to_empty(device="cpu")).eval()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, tuple[nn.Module, Path]]:
    """{name: (torchvision's classifier with 1000 classes, the file of its weights)}."""
    made = {}
    for name in PLAIN:
        model = torchvisions(name)
        path = tmp_path_factory.mktemp(name) / "weights.safetensors"
        save_file(model.state_dict(), path)
        made[name] = (model, path)
    return made


def with_our_heads(model: nn.Module, method: Method) -> nn.Module:
    """torchvision's own net with the new layers of ours in the places of its last ones."""
    net = method.net
    if method.name in ("resnet50", "inception_v3"):
        model.fc = net.classifier
    else:
        model.classifier[-1] = net.classifier
    if method.name == "inception_v3":
        model.AuxLogits.fc = net.AuxLogits.fc
        model.transform_input = True  # as torchvision sets it together with its pretrained weights
    return model


@pytest.mark.parametrize("name", PLAIN)
def test_a_net_is_torchvisions_with_a_new_last_layer(name: str, published: Mapping[str, tuple[nn.Module, Path]]):
    model, path = published[name]
    state = model.state_dict()
    method = build(name, CLASSES, init=str(path), **NARROW.get(name, {}))
    ours = method.net.state_dict()
    renamed = {rename(key): key for key in ours}
    expected = {key for key in state if not key.startswith(HEADS[name])}
    assert expected == {key for key, own in renamed.items() if not method.is_head(own)}
    assert all(torch.equal(ours[renamed[key]], state[key]) for key in expected)
    for head in method.head:
        assert method.net.get_submodule(head).out_features == CLASSES
    again = build(name, CLASSES, init=str(path), **NARROW.get(name, {})).net.classifier.weight
    assert not torch.equal(again, ours["classifier.weight"]), "the last layer is drawn anew"

    images = torch.rand(2, 3, max(96, method.min_side), 96)
    whole = with_our_heads(copy.deepcopy(model), method)
    with torch.no_grad():
        logits = method.net.eval()(images)["logits"]
        # The loader of torchvision's users normalises by ImageNet's colours for every one of these nets, Inception as
        # well.
        theirs = whole(Normalise()(images))
    assert torch.allclose(logits, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max()))


def rename(key: str) -> str:
    for prefix in ("backbone.trunk.", "neck."):
        key = key.removeprefix(prefix)
    return key


@pytest.mark.parametrize("name", PLAIN)
def test_uniform_logits_cost_the_logarithm_of_the_classes(name: str):
    method = build(name, CLASSES, **NARROW.get(name, {}))
    for head in method.head:
        nn.init.zeros_(method.net.get_submodule(head).weight)
        if method.net.get_submodule(head).bias is not None:
            nn.init.zeros_(method.net.get_submodule(head).bias)
    batch = tiny_batch(method)
    with torch.no_grad():
        parts = method.losses(method.net.eval()(batch.images), batch)
    for part, (total, count) in parts.items():
        assert count == 4
        assert float(total / count) == pytest.approx(math.log(CLASSES), rel=1e-5), part


def test_all_plain_nets_share_one_recipe():
    recipes = [build(name, CLASSES, **NARROW.get(name, {})).recipe for name in PLAIN]
    assert all(recipe == recipes[0] for recipe in recipes)
    stage = recipes[0].stages[0]
    assert (stage.lr, stage.head_lr_factor, stage.step_epochs, stage.epochs, stage.weight_decay) == (
        1e-3,
        1.0,
        60,
        160,
        0.0,
    )
    assert (recipes[0].resize, recipes[0].crop, recipes[0].rotate, recipes[0].batch_size) == (440, 384, 15.0, 16)


@pytest.mark.parametrize(
    ("name", "share"), [("alexnet", 0.5), ("vgg16", 0.5), ("mobilenet_v2", 0.2), ("inception_v3", 0.5)]
)
def test_dropout_as_torchvision_has_it(name: str, share: float, published: Mapping[str, tuple[nn.Module, Path]]):
    def shares(net: nn.Module) -> list[float]:
        return [module.p for module in net.modules() if isinstance(module, nn.Dropout)]

    plain = shares(build(name, CLASSES, **NARROW.get(name, {})).net)
    assert plain == shares(published[name][0])
    assert set(plain) == {share}
    assert set(shares(build(name, CLASSES, dropout=0.3, **NARROW.get(name, {})).net)) == {0.3}


# --- fully connected layers


@pytest.mark.parametrize("name", ["vgg11", "vgg16_bn"])
def test_vggs_of_other_depths(name: str):
    method = build("vgg16", CLASSES, backbone=name, hidden=16)
    assert method.net(torch.rand(2, 3, 32, 32))["features"].shape == (2, 512, 1, 1)
    assert any(isinstance(module, nn.BatchNorm2d) for module in method.net.modules()) == name.endswith("_bn")
    with pytest.raises(UserError, match="backbone"):
        build("vgg16", CLASSES, backbone="resnet18")


def test_fully_connected_weights_that_are_missing_are_reported(tmp_path: Path):
    """A file of a trunk alone would leave 120 million weights random."""
    alone = build("resnet50", CLASSES, backbone="alexnet").net
    save_file(alone.state_dict(), tmp_path / "trunk.safetensors")
    message = r"4 of 4 tensors of the layers after the backbone alexnet are missing, first classifier\.1\.weight"
    with pytest.raises(UserError, match=message) as caught:
        build("alexnet", CLASSES, hidden=16, init=str(tmp_path / "trunk.safetensors"))
    assert "the method `resnet50`" in str(caught.value)
    whole = build("alexnet", CLASSES, hidden=16).net
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    back = build("resnet50", CLASSES, backbone="alexnet", init=str(tmp_path / "whole.safetensors")).net
    assert torch.equal(back.backbone.trunk.features[0].weight, whole.backbone.trunk.features[0].weight)
    with pytest.raises(UserError, match=r"classifier\.1\.weight has the shape \(16, 9216\) instead of \(32, 9216\)"):
        build("alexnet", CLASSES, hidden=32, init=str(tmp_path / "whole.safetensors"))


def test_imagenet_weights_fill_the_fully_connected_layers_too(monkeypatch: pytest.MonkeyPatch):
    """The download is replaced, the rest is the path that `imagenet` takes."""
    from torchvision.models._api import WeightsEnum

    model = models.alexnet()
    asked = []

    def fetched(self: WeightsEnum, *args: object, **settings: object) -> dict[str, Tensor]:
        asked.append(str(self))
        return model.state_dict()

    monkeypatch.setattr(WeightsEnum, "get_state_dict", fetched)
    net = build("alexnet", CLASSES, init="imagenet").net
    assert asked == ["AlexNet_Weights.IMAGENET1K_V1"]
    assert torch.equal(net.neck.classifier[1].weight, model.classifier[1].weight)
    assert torch.equal(net.backbone.trunk.features[0].weight, model.features[0].weight)
    with pytest.raises(UserError, match="instead of"):
        build("alexnet", CLASSES, init="imagenet", hidden=8)


# --- Inception


def test_inceptions_own_colours_are_torchvisions_transformed_input():
    model = models.inception_v3(weights=None, init_weights=False, aux_logits=False, transform_input=True).eval()
    images = torch.rand(2, 3, 80, 80)
    reference = model._transform_input(Normalise()(images))
    assert torch.allclose(build_backbone("inception_v3", "none").normalise(images), reference, atol=1e-6)
    assert torch.allclose(reference, images * 2 - 1, atol=1e-6)


def test_inceptions_auxiliary_classifier_is_torchvisions(published: Mapping[str, tuple[nn.Module, Path]]):
    """In training mode at 299 px, where torchvision computes both; dropout off, batch statistics on."""
    model, path = published["inception_v3"]
    method = build("inception_v3", CLASSES, init=str(path), dropout=0.0)
    whole = with_our_heads(copy.deepcopy(model), method).train()
    whole.dropout.p = 0.0
    images = torch.rand(2, 3, 299, 299)
    with torch.no_grad():
        theirs, outputs = whole(Normalise()(images)), method.net.train()(images)
    assert torch.allclose(outputs["logits"], theirs.logits, rtol=1e-3, atol=1e-3)
    assert torch.allclose(outputs["auxiliary"], theirs.aux_logits, rtol=1e-3, atol=1e-3)


def test_inceptions_loss_is_the_sum_with_four_tenths_of_the_auxiliary():
    method = build("inception_v3", 3)
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    auxiliary = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([0, 2])
    outputs = {"logits": logits, "auxiliary": auxiliary}
    parts = method.losses(outputs, Batch(torch.zeros(2, 3, 8, 8), labels))
    total = float(sum(method.loss_weights[name] * value / count for name, (value, count) in parts.items()))

    def entropy(rows: Tensor) -> float:
        return sum(
            math.log(sum(math.exp(z) for z in row)) - row[label]
            for row, label in zip(rows.tolist(), labels.tolist(), strict=True)
        ) / len(rows)

    assert total == pytest.approx(entropy(logits) + 0.4 * entropy(auxiliary), rel=1e-6)


def test_a_small_map_is_enlarged_for_the_auxiliary_classifier_and_a_large_one_left_alone():
    large = torch.rand(1, 3, MIDDLE_SIDE, 22)
    assert enlarge(large) is large
    small = torch.rand(1, 3, 4, 4)
    grown = enlarge(small)
    assert grown.shape == (1, 3, MIDDLE_SIDE, MIDDLE_SIDE)
    assert torch.equal(grown[..., 0, 0], small[..., 0, 0])
    assert torch.equal(grown[..., -1, -1], small[..., -1, -1])


@pytest.mark.parametrize("name", ["alexnet", "inception_v3"])
def test_the_smallest_side_is_the_smallest(name: str):
    method = build(name, CLASSES, **NARROW.get(name, {}))
    method.net.train()(torch.rand(2, 3, method.min_side, method.min_side))
    with pytest.raises(RuntimeError):
        method.net.train()(torch.rand(2, 3, method.min_side - 1, method.min_side - 1))


def test_inception_guides_masks_too():
    """As a backbone of another method it is the trunk alone."""
    method = build("mask_guided", CLASSES, backbone="inception_v3")
    assert method.net.backbone.channels == 2048
    assert method.net.eval()(torch.rand(1, 3, 96, 96))["fused"].shape == (1, 2048, 1, 1)

"""The contract that every method keeps, over all registered names, and how backbones get their weights."""

from __future__ import annotations

import pickle
import socket
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from ufgvc.core.errors import UserError
from ufgvc.core.types import REGIONS
from ufgvc.methods import Batch, Method, Recipe, Stage, backbones, build, names, options_class
from ufgvc.methods.backbones import build_backbone
from ufgvc.training.optim import freeze, frozen_modules, make_optimizer
from ufgvc.training.steps import eval_step, train_step

CLASSES, SIDE = 5, 64
# Where the usual small backbone does not suit. B-CNN pools the square of the channels: AlexNet has few, and ends in a
# max-pooling like VGG.
SMALLER = {
    "alexnet": {"hidden": 64},
    "bcnn": {"backbone": "alexnet"},
    "improved_bcnn": {"backbone": "alexnet", "iterations": 3},
    "vgg16": {"backbone": "vgg11_bn", "hidden": 64},
}
# Fully connected layers over a whole map diverge at the rate that soon fits a pooled one; these learn at their
# recipe's.
OWN_RATE = ("alexnet", "vgg16")
# They use more of a ResNet than its last map.
RESNETS = ("mpn_cov", "nts_net", "region_tokens")
# Sixty steps of these take as long as those of all others; their gradients are checked for each.
SLOW_TO_FIT = ("nts_net", "vgg16", "mpn_cov", "improved_bcnn", "part_probe")


def small(name: str, seed: int = 0, **options: object) -> Method:
    """The method on a small backbone, where it lets one choose."""
    torch.manual_seed(seed)
    usual = {"backbone": "resnet18"} if "backbone" in options_class(name).model_fields else {}
    method = build(name, CLASSES, **(usual | SMALLER.get(name, {}) | options))
    freeze(method, method.recipe.stages[-1])
    return method


def trainable(name: str, **options: object) -> Method:
    """The method on a backbone that trains five times as fast as the one of `small`, where it lets one choose.

    In evaluation its untrained layers return next to nothing: what is compared there needs `small`.
    """
    return small(name, **(_free(name, "shufflenet_v2_x0_5") | options))


def smallest(name: str, **options: object) -> Method:
    """The method on the backbone with the fewest layers, none of which is a BatchNorm."""
    return small(name, **(_free(name, "squeezenet1_1") | options))


def _free(name: str, backbone: str) -> dict[str, object]:
    free = "backbone" in options_class(name).model_fields and name not in (*SMALLER, *RESNETS)
    return {"backbone": backbone} if free else {}


def tiny_batch(method: Method, count: int = 4, seed: int = 0) -> Batch:
    """Random images just large enough for the method, with masks and the numbers that its views draw."""
    generator = torch.Generator().manual_seed(seed)
    side = max(SIDE, method.min_side)
    images = torch.rand(count, 3, side, side, generator=generator).contiguous(memory_format=torch.channels_last)
    masks = {region: torch.rand(count, 1, side, side, generator=generator).round() for region in REGIONS}
    has = {region: torch.ones(count, dtype=torch.bool) for region in REGIONS}
    uniforms = torch.rand(count, method.num_uniforms, generator=generator, dtype=torch.float64)
    return Batch(images, torch.arange(count) % CLASSES, masks, has, uniforms=uniforms)


@pytest.mark.parametrize("name", names())
class TestContract:
    def test_forward_and_backward(self, name: str) -> None:
        method = trainable(name)
        batch = method.views(tiny_batch(method))
        outputs = method.net.train()(batch.images)
        assert outputs["logits"].shape == (len(batch.labels), CLASSES)
        assert outputs["embedding"].shape == (len(batch.labels), method.net.classifier.in_features)
        assert outputs[method.last_map].ndim == 4
        parts = method.losses(outputs, batch)
        assert set(parts) == set(method.loss_weights)
        for part, (total, count) in parts.items():
            assert total.shape == count.shape == ()
            assert torch.isfinite(total), part
            assert count > 0
        sum(method.loss_weights[part] * total / count for part, (total, count) in parts.items()).backward()
        trained = {name: each for name, each in method.net.named_parameters() if each.requires_grad}
        assert {"classifier.weight"} <= trained.keys()
        for parameter_name, parameter in trained.items():
            assert parameter.grad is not None, parameter_name
            assert torch.isfinite(parameter.grad).all(), parameter_name
            assert parameter.grad.abs().sum() > 0, parameter_name

    def test_every_parameter_is_in_exactly_one_group(self, name: str) -> None:
        method = trainable(name)
        for stage in method.recipe.stages:
            groups = make_optimizer(method, stage).param_groups
            grouped = [id(parameter) for group in groups for parameter in group["params"]]
            assert len(grouped) == len(set(grouped))
            assert set(grouped) == {id(parameter) for parameter in method.net.parameters() if parameter.requires_grad}
        trained = {name for name, parameter in method.net.named_parameters() if parameter.requires_grad}
        if method.recipe.classifier_fit:
            assert trained == {"classifier.weight", "classifier.bias"}
        else:
            assert trained == {name for name, _ in method.net.named_parameters()}, "the last stage trains everything"
        heads = {name for name, _ in method.net.named_parameters() if method.is_head(name)}
        assert "classifier.weight" in heads
        assert not any(name.startswith("backbone.") for name in heads)

    def test_options_and_state_dict_make_it_again(self, name: str, tmp_path: Path) -> None:
        method = trainable(name)
        make_step(method, tiny_batch(method))
        save_file(
            {key: value.contiguous() for key, value in method.net.state_dict().items()}, tmp_path / "net.safetensors"
        )
        again = build(name, CLASSES, init=str(tmp_path / "net.safetensors"), **method.options)
        again.net.load_state_dict(method.net.state_dict())
        images = tiny_batch(method, seed=9).images
        assert torch.equal(eval_step(method, method.net.eval(), images), eval_step(again, again.net.eval(), images))
        assert again.options == method.options
        assert options_class(name).model_validate(method.options).model_dump(mode="json") == method.options

    def test_eval_is_deterministic_and_needs_no_masks(self, name: str) -> None:
        method = small(name)
        net = method.net.eval()
        images = tiny_batch(method, seed=1).images
        first = eval_step(method, net, images)
        assert first.shape == (4, CLASSES)
        assert first.dtype == torch.float32
        assert torch.equal(first, eval_step(method, net, images))
        one_by_one = torch.cat([eval_step(method, net, image[None]) for image in images])
        assert torch.allclose(first, one_by_one, atol=1e-4), "an image's logits depend on its company"

    def test_recipe_and_head_name_what_exists(self, name: str) -> None:
        method = trainable(name)
        for stage in method.recipe.stages:
            assert len(frozen_modules(method, stage)) == len(stage.frozen)
        parameters = [parameter for parameter, _ in method.net.named_parameters()]
        for prefix in method.head:  # a misspelt one would let a new layer learn at the backbone's rate
            assert any(parameter.startswith(f"{prefix}.") for parameter in parameters), prefix
        assert method.recipe.crop >= method.min_side


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW_TO_FIT else []) for name in names()]
)
def test_one_batch_can_be_overfitted(name: str) -> None:
    # Dropout is there to hinder it, and its noise would be in the loss that is looked at.
    method = trainable(name, **({"dropout": 0.0} if "dropout" in options_class(name).model_fields else {}))
    batch = tiny_batch(method, 8)
    optimizer = make_optimizer(method, fast_stage(method))
    method.net.train()
    for _ in range(60):
        done = train_step(method, method.net, batch, optimizer)
        total, count = done.losses["classification"]
        if done.correct == done.count and total / count < 0.05:
            break
    assert done.correct == done.count
    assert total / count < 0.05


def fast_stage(method: Method) -> Stage:
    """Rates at which a batch is soon fitted. A recipe that trains its new layers faster than 0.05 has its reason in the
    size of
    what they see: they get that rate here too, and the backbone below them less than usual."""
    if method.name in OWN_RATE:
        return method.recipe.stages[0]
    head = max(stage.lr * stage.head_lr_factor for stage in method.recipe.stages)
    backbone, head = (0.003, head) if head > 0.05 else (0.01, 0.05)
    return Stage(epochs=1, lr=backbone, head_lr_factor=head / backbone)


def make_step(method: Method, batch: Batch) -> None:
    method.net.train()
    train_step(method, method.net, batch, make_optimizer(method, Stage(epochs=1, lr=0.01)))


def test_unknown_names_and_options_are_told_with_the_known_ones():
    with pytest.raises(UserError, match="no method named 'resnet51'") as caught:
        build("resnet51", CLASSES)
    assert "mask_guided" in str(caught.value)
    with pytest.raises(UserError, match="backbon: is not a known setting"):
        build("resnet50", CLASSES, backbon="resnet18")
    with pytest.raises(UserError, match="no model 'resnet81'") as caught:
        build("resnet50", CLASSES, backbone="resnet81")
    assert "resnet18" in str(caught.value)
    with pytest.raises(UserError, match="two classes"):
        build("resnet50", 1)


def test_mirror_averaging_makes_the_logits_of_both_mirror_images_equal():
    method = small("resnet50")
    images = tiny_batch(method).images
    plain = eval_step(method, method.net.eval(), images)
    mirrored = Method(**{**vars(method), "recipe": method.recipe.model_copy(update={"mirror": True})})
    both = eval_step(mirrored, mirrored.net, images)
    assert torch.allclose(both, eval_step(mirrored, mirrored.net, images.flip(3)), atol=1e-6)
    assert torch.allclose(both, (plain + eval_step(method, method.net, images.flip(3))) / 2, atol=1e-6)
    assert not torch.allclose(both, plain, atol=1e-4)


def test_recipe_refuses_a_crop_that_does_not_fit():
    with pytest.raises(ValueError, match="does not fit"):
        Recipe(stages=(Stage(epochs=1, lr=0.1),), resize=200, crop=224)


# --- backbones


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("resnet18", 512),
        ("vgg11_bn", 512),
        ("densenet121", 1024),
        ("mobilenet_v3_small", 576),
        ("efficientnet_b0", 1280),
        ("shufflenet_v2_x0_5", 1024),
        ("regnet_y_400mf", 440),
        ("mnasnet0_5", 1280),
        ("squeezenet1_1", 512),
        ("convnext_tiny", 768),
        ("swin_t", 768),
    ],
)
def test_torchvision_backbones_end_in_the_map_that_their_own_heads_see(name: str, channels: int):
    backbone = build_backbone(name, "none").eval()
    trunk, whole = backbone.trunk.state_dict(), models.get_model(name).state_dict()
    assert {key: tensor.shape for key, tensor in trunk.items()}.items() <= {
        key: tensor.shape for key, tensor in whole.items()
    }.items()
    assert {key.split(".")[0] for key in whole.keys() - trunk.keys()} <= {"fc", "classifier", "head"}
    features = backbone(torch.rand(2, 3, 64, 64))
    assert features.shape[:2] == (2, channels)
    assert backbone.channels == channels


def test_a_resnet_pooled_is_what_torchvision_feeds_its_classifier():
    backbone = build_backbone("resnet18", "none").eval()
    model = models.resnet18()
    model.load_state_dict(backbone.trunk.state_dict(), strict=False)
    model.fc = torch.nn.Identity()
    images = torch.rand(2, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    assert torch.allclose(backbone(images).mean((2, 3)), model.eval()((images - mean) / std), atol=1e-5)


def test_models_without_a_map_are_refused():
    for name in ("vit_b_32", "googlenet"):
        with pytest.raises(UserError, match="no final feature map"):
            build_backbone(name, "none")


@pytest.mark.parametrize("form", ["safetensors", "pth", "wrapped", "ddp"])
def test_weights_from_a_file(form: str, tmp_path: Path):
    torch.manual_seed(1)
    model = models.resnet18(num_classes=7)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pth")
    if form == "safetensors":
        save_file(state, path)
    elif form == "ddp":
        torch.save({f"module.{name}": tensor for name, tensor in state.items()}, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if form == "wrapped" else state, path)
    loaded = build_backbone("resnet18", str(path)).trunk.state_dict()
    assert loaded
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.items())


def test_weights_of_one_of_our_own_nets_start_another_method(tmp_path: Path):
    method = small("resnet50")
    save_file(method.net.state_dict(), tmp_path / "net.safetensors")
    other = build("mask_guided", 9, init=str(tmp_path / "net.safetensors"), backbone="resnet18")
    mine, theirs = other.net.backbone.state_dict(), method.net.backbone.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())


def test_weights_that_do_not_fit_are_reported(tmp_path: Path):
    torch.save(models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(UserError, match=r"tensors of the backbone are missing, first layer1\.2"):
        build_backbone("resnet34", str(tmp_path / "resnet18.pth"))
    state = models.resnet18().state_dict()
    state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    torch.save(state, tmp_path / "grey.pth")
    with pytest.raises(UserError, match=r"conv1.weight has the shape \(64, 1, 7, 7\) instead of \(64, 3, 7, 7\)"):
        build_backbone("resnet18", str(tmp_path / "grey.pth"))
    with pytest.raises(UserError, match="no such weight file"):
        build_backbone("resnet18", str(tmp_path / "away.pth"))
    with pytest.raises(UserError, match="no such weight file"):
        build_backbone("resnet18", "imagenet1k")
    (tmp_path / "broken.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match="not a safetensors file"):
        build_backbone("resnet18", str(tmp_path / "broken.safetensors"))
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match="something other than a state dict"):
        build_backbone("resnet18", str(tmp_path / "list.pth"))


class Hostile:
    """Pickled code: reading it must run nothing."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path(self.target),)


def test_a_file_with_code_in_it_is_not_run(tmp_path: Path):
    touched = tmp_path / "touched"
    for name, write in (
        ("zip.pth", torch.save),
        ("plain.pth", lambda value, path: path.write_bytes(pickle.dumps(value))),
    ):
        write({"conv1.weight": Hostile(str(touched))}, tmp_path / name)
        with pytest.raises(UserError, match="not a state dict that can be read safely"):
            build_backbone("resnet18", str(tmp_path / name))
    assert not touched.exists()


def test_timm_backbone():
    torch.manual_seed(0)
    method = build("mask_guided", CLASSES, backbone="timm:resnet18")
    make_step(method, tiny_batch(method))
    assert all(parameter.grad is not None for parameter in method.net.parameters())
    for name, channels in (("timm:convnext_atto", 320), ("timm:mobilenetv3_small_050", 288)):
        backbone = build_backbone(name, "none")
        assert backbone(torch.rand(1, 3, 64, 64)).shape[1] == backbone.channels == channels
    with pytest.raises(UserError, match="timm has no model"):
        build_backbone("timm:resnet19", "none")
    with pytest.raises(UserError, match=r"timm has no model 'resnet18\.a1_in2k'") as caught:
        build_backbone("timm:resnet18.a1_in2k", "none")
    assert "resnet18.a1_in1k" in str(caught.value)
    with pytest.raises(UserError, match="timm has no weights of resnetv2_50d") as caught:
        build_backbone("timm:resnetv2_50d", "imagenet")
    assert "efficientnet_lite0" in str(caught.value)
    with pytest.raises(UserError, match="torchvision has no model 'efficientnet_lite'") as caught:
        build_backbone("efficientnet_lite", "none")
    assert "efficientnet_lite0" in str(caught.value)


@pytest.mark.parametrize("name", ["resnet18", "timm:resnet18"])
def test_no_network_is_reported(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """With nothing fetched yet and no way out, the message says what else can be done."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # else it tries for 48 seconds
    with pytest.raises(UserError, match=f"weights of {name} could not be downloaded") as caught:
        build_backbone(name, "imagenet")
    assert "efficientnet_lite0" in str(caught.value)


def test_a_silent_network_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A server that takes the connection and says nothing, as behind some firewalls: a message within the timeout."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(backbones, "ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(UserError, match="weights of resnet18 could not be downloaded") as caught:
            build_backbone("resnet18", "imagenet")
    assert time.monotonic() - started < 20
    assert "efficientnet_lite0" in str(caught.value)
    assert socket.getdefaulttimeout() is None

"""Backbones: where they are cut, how they get their weights, and what is said when they get none."""

from __future__ import annotations

import pickle
import socket
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision import models

from tests.unit.test_methods import CLASSES, make_step, small, tiny_batch
from ufgvc.core.errors import UserError
from ufgvc.methods import backbones, build
from ufgvc.methods.backbones import build_backbone


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

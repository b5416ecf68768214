"""Transformers of timm as backbones: their tokens on the grid, under masks, and their weights from files."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from tests.unit.test_methods import CLASSES, make_step, tiny_batch
from ufgvc.core.errors import UserError
from ufgvc.methods import build
from ufgvc.methods.backbones import build_backbone


@pytest.mark.parametrize(
    ("name", "channels", "stride"),
    [
        ("vit_tiny_patch16_224", 192, 16),
        pytest.param("deit3_small_patch16_224", 384, 16, marks=pytest.mark.slow),  # as vit_tiny, four times the size
        ("eva02_tiny_patch14_224", 192, 14),
        ("swin_tiny_patch4_window7_224", 768, 32),
        ("swinv2_cr_tiny_224", 768, 32),
    ],
)
def test_transformers_give_their_normalised_tokens_on_the_grid(name: str, channels: int, stride: int):
    backbone = build_backbone(f"timm:{name}", "none").eval()
    side = int(timm.get_pretrained_cfg(name).input_size[1])
    model = timm.create_model(name).eval()
    model.load_state_dict(backbone.trunk.model.state_dict(), strict=False)
    images = torch.rand(2, 3, side, side)
    with torch.no_grad():
        tokens = model.forward_features(backbone.normalise(images))
        grid = backbone(images)
    if tokens.ndim == 3:  # (B, prefix + cells, C)
        cells = tokens[:, model.num_prefix_tokens :]
    else:  # Swin has (B, h, w, C), its second version with convolutions (B, C, h, w)
        cells = (tokens if tokens.shape[3] == channels else tokens.permute(0, 2, 3, 1)).flatten(1, 2)
    cut = side // stride
    assert grid.shape == (2, channels, cut, cut)
    for row in range(cut):
        for column in range(cut):
            assert torch.allclose(grid[:, :, row, column], cells[:, row * cut + column], atol=1e-4)
    assert backbone(torch.rand(1, 3, 4 * stride, 2 * stride)).shape == (1, channels, 4, 2), (
        "the image may have any size"
    )


@pytest.mark.parametrize(
    "name",
    ["timm:vit_tiny_patch16_224", pytest.param("timm:swin_tiny_patch4_window7_224", marks=pytest.mark.slow)],
)
def test_transformers_learn_under_masks_and_come_back_from_files(name: str, tmp_path: Path):
    torch.manual_seed(0)
    method = build("mask_guided", CLASSES, backbone=name)
    make_step(method, tiny_batch(method))
    for key, parameter in method.net.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key
    save_file(method.net.state_dict(), tmp_path / "net.safetensors")
    again = build("resnet50", CLASSES, backbone=name, init=str(tmp_path / "net.safetensors"))
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(again.net.backbone.eval()(images), method.net.backbone.eval()(images))
    model = timm.create_model(name.removeprefix("timm:"))
    save_file(
        {key: tensor.contiguous() for key, tensor in model.state_dict().items()}, tmp_path / "published.safetensors"
    )
    loaded = build_backbone(name, str(tmp_path / "published.safetensors")).trunk.model.state_dict()
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in loaded.items())


def test_a_side_that_patches_do_not_divide_is_refused():
    with pytest.raises(UserError, match=r"patches of 16 px, and 70 x 64 px are not multiples"):
        build_backbone("timm:vit_tiny_patch16_224", "none")(torch.rand(1, 3, 64, 70))

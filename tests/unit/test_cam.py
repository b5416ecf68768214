"""Class activation maps against the formula in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ufgvc.core.errors import UserError
from ufgvc.evaluation.cam import activation_maps, overlay


class Tiny(nn.Module):
    """A convolution, average pooling and a linear layer, as the networks of the paper end."""

    def __init__(self, name: str = "features") -> None:
        super().__init__()
        torch.manual_seed(3)
        self.name = name
        self.convolution, self.linear = nn.Conv2d(3, 6, 3, padding=1).double(), nn.Linear(6, 4).double()

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = self.convolution(images).relu()
        return {self.name: maps, "logits": self.linear(maps.mean(dim=(2, 3)))}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", ["features", "fused"])
def test_the_map_is_the_classifiers_weights_over_the_last_map(name: str, frozen: bool) -> None:
    net = Tiny(name).eval().requires_grad_(not frozen)
    images = torch.rand(5, 3, 7, 9, dtype=torch.float64)
    with torch.no_grad():
        found, predicted = activation_maps(net, images, name)
        outputs = net(images)
    for i in range(5):
        label = int(outputs["logits"][i].argmax())
        raw = sum(net.linear.weight[label, c] * outputs[name][i, c] for c in range(6)).detach().clamp(min=0)
        assert int(predicted[i]) == label
        torch.testing.assert_close(found[i], raw / raw.max(), rtol=1e-9, atol=1e-12)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_the_fused_map_is_used_where_the_method_names_it() -> None:
    class Guided(Tiny):
        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            maps = self.convolution(images).relu()
            fused = maps * torch.linspace(0, 1, images.shape[3], dtype=torch.float64)
            return {"features": maps, "fused": fused, "logits": self.linear(fused.mean(dim=(2, 3)))}

    found, _ = activation_maps(Guided().eval(), torch.rand(2, 3, 4, 5, dtype=torch.float64), "fused")
    assert not found[:, :, 0].any()
    assert found.amax() == 1


def test_nothing_that_speaks_for_the_class_is_an_empty_map() -> None:
    net = Tiny().eval()
    nn.init.constant_(net.linear.weight, -1)
    found, _ = activation_maps(net, torch.rand(2, 3, 4, 4, dtype=torch.float64))
    assert not found.any()


def test_a_model_without_a_map_says_so() -> None:
    class Flat(nn.Module):
        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": images.mean(dim=(2, 3))}

    with pytest.raises(UserError, match="no feature map"):
        activation_maps(Flat(), torch.rand(1, 3, 4, 4))


def test_the_overlay_is_brightest_where_the_map_is() -> None:
    photograph = np.full((40, 60, 3), 90, np.uint8)
    heat = np.zeros((2, 3), np.float32)
    heat[0, 2] = 1
    shown = overlay(photograph, heat)
    assert shown.shape == photograph.shape
    assert shown.dtype == np.uint8
    change = np.abs(shown.astype(int) - 90).sum(axis=2)
    assert change[:10, 50:].mean() > 2 * change[30:, :10].mean()

"""Class activation maps against the formula in float64, and their share inside masks."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from ufgvc.core.errors import UserError
from ufgvc.evaluation import cam
from ufgvc.evaluation.cam import activation_maps
from ufgvc.models.model import LoadedModel
from ufgvc.reports.photographs import energy_panels, masked, overlay_map


class Tiny(nn.Module):
    """A convolution, average pooling and a linear layer, as at the end of the networks of the paper."""

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


def test_a_map_without_positive_cells_is_zero() -> None:
    net = Tiny().eval()
    nn.init.constant_(net.linear.weight, -1)
    found, _ = activation_maps(net, torch.rand(2, 3, 4, 4, dtype=torch.float64))
    assert not found.any()


def test_a_model_without_a_feature_map_is_an_error() -> None:
    class Flat(nn.Module):
        def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": images.mean(dim=(2, 3))}

    with pytest.raises(UserError, match="no feature map"):
        activation_maps(Flat(), torch.rand(1, 3, 4, 4))


def test_the_overlay_is_brightest_where_the_map_is() -> None:
    heat = torch.zeros(2, 3)
    heat[0, 2] = 1
    shown = overlay_map(torch.full((3, 40, 60), 90 / 255), heat)
    assert shown.shape == (40, 60, 3)
    assert shown.dtype == np.uint8
    change = np.abs(shown.astype(int) - 90).sum(axis=2)
    assert change[:10, 50:].mean() > 2 * change[30:, :10].mean()


class Bright(nn.Module):
    """A classifier whose first class has a high logit where the photograph is red."""

    def __init__(self, has_map: bool = True) -> None:
        super().__init__()
        self.has_map = has_map

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        features = nn.functional.avg_pool2d(images[:, :1], 4)
        logits = features.mean(dim=(2, 3)) * torch.tensor([[1.0, -1.0]])
        return {"logits": logits, **({"features": features} if self.has_map else {})}


def model(resize: int, size: int, has_map: bool = True) -> LoadedModel:
    method = SimpleNamespace(net=Bright(has_map).eval(), last_map="features")
    return LoadedModel(cast(Any, method), ("a", "b"), {"resize": resize, "size": size}, {})


def test_shares_by_hand() -> None:
    maps = torch.zeros(4, 4, 4)
    maps[0, 0, 0], maps[0, 3, 3] = 1.0, 0.5
    maps[1] = 1
    maps[2, 1, 1] = 1
    masks = torch.zeros(4, 4, 4, dtype=torch.bool)
    masks[:, :2] = True
    found = cam.energy_share(maps, masks)
    assert found[:3].tolist() == pytest.approx([1 / 1.5, 0.5, 1])
    assert math.isnan(found[3])
    assert cam.mask_share(masks).tolist() == [0.5] * 4


def test_maps_are_upsampled_bilinearly() -> None:
    random = np.random.default_rng(0)
    maps, masks = random.random((3, 2, 3)).astype(np.float32), random.random((3, 8, 9)) < 0.4

    def upsampled(heat: np.ndarray, row: int, column: int) -> float:
        y, x = min(max((row + 0.5) * 2 / 8 - 0.5, 0), 1), min(max((column + 0.5) * 3 / 9 - 0.5, 0), 2)
        top, left = int(y), int(x)
        down, right = min(top + 1, 1), min(left + 1, 2)
        upper = heat[top, left] * (1 - (x - left)) + heat[top, right] * (x - left)
        lower = heat[down, left] * (1 - (x - left)) + heat[down, right] * (x - left)
        return float(upper * (1 - (y - top)) + lower * (y - top))

    found = cam.energy_share(torch.from_numpy(maps), torch.from_numpy(masks))
    for place in range(3):
        cells = {(r, c): upsampled(maps[place].astype(float), r, c) for r in range(8) for c in range(9)}
        expected = sum(value for at, value in cells.items() if masks[place][at]) / sum(cells.values())
        assert float(found[place]) == pytest.approx(expected, abs=1e-9)


def test_masks_are_resized_and_cropped_like_their_photographs() -> None:
    """A white block stays under its mask through resize and crop, and the crop cuts both."""
    image, mask = np.zeros((60, 120, 3), np.uint8), np.zeros((60, 120), bool)
    mask[9:27, 18:66] = True
    image[mask] = 255
    one = model(40, 32)
    seen, inside = one.view([image])[0, 0], cam.view_masks(one, [mask])[0]
    assert inside.shape == (32, 32)
    assert torch.equal(seen > 0.5, inside)
    # Squared: rows 6 to 18, columns 6 to 22; the crop takes 4 px from each side.
    assert inside[2:14, 2:18].all()
    assert int(inside.sum()) == 12 * 16


def photographs() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Red in the left half, with masks of the left half, the right half and nothing; then a leaf without red."""
    left = np.zeros((64, 96), bool)
    left[:, :48] = True
    image = np.zeros((64, 96, 3), np.uint8)
    image[left] = (200, 10, 10)
    return [image, image, image, np.zeros_like(image)], [left, ~left, np.zeros_like(left), left]


def test_means_are_over_leaves_whose_mask_and_map_are_not_empty() -> None:
    images, masks = photographs()
    found = cam.mean_energy(
        images, masks, {"with map": model(32, 32), "without": model(32, 32, has_map=False)}, batch_size=3
    )
    assert set(found) == {"with map"}
    inside, covered, leaves = found["with map"]
    # The edge between red and black is blurred by upsampling the map, symmetrically for the two masks.
    assert (inside, covered, leaves) == (pytest.approx(0.5), 0.5, 2)
    only = cam.mean_energy(images[:1], masks[:1], {"with map": model(32, 32)})["with map"]
    assert 0.9 < only[0] <= 1
    inside, covered, leaves = cam.mean_energy(images[2:], masks[2:], {"with map": model(32, 32)})["with map"]
    assert (math.isnan(inside), math.isnan(covered), leaves) == (True, True, 0)
    assert cam.mean_energy([], [], {"with map": model(32, 32)})["with map"][2] == 0


def test_panels_have_the_share_below_each_map() -> None:
    images, masks = photographs()
    models = {"whole": model(32, 32), "without": model(32, 32, has_map=False), "middle": model(40, 32)}
    panels = energy_panels(images, masks, models, ["one", "two", "three", "four"])
    assert panels is not None
    assert panels.columns == ("leaf", "vein and contour", "whole", "middle")
    assert panels.captions == ("one", "two", "three", "four")
    share = round(100 * float(next(cam.masked_maps(models["whole"], images[:1], masks[:1])).inside))
    assert share > 90
    assert panels.marks[0][:3] == ("", "", f"{share}\u00a0% inside (mask covers 50\u00a0%)")
    assert panels.marks[1][2] == f"{100 - share}\u00a0% inside (mask covers 50\u00a0%)"
    assert panels.marks[2][2:] == ("no vein or contour in view",) * 2
    assert panels.marks[3][2:] == ("empty map",) * 2
    assert [picture.shape for picture in panels.images[0]] == [(64, 96, 3), (64, 96, 3), (32, 32, 3), (32, 32, 3)]
    np.testing.assert_array_equal(panels.images[0][1], masked(images[0], masks[0]))
    assert panels.to_png().startswith(b"\x89PNG")
    assert energy_panels([], [], models, []) is None
    assert energy_panels(images, masks, {"without": model(32, 32, has_map=False)}, ["a"] * 4) is None


def test_a_mask_of_another_size_is_refused() -> None:
    images, masks = photographs()
    with pytest.raises(ValueError, match="another size"):
        cam.mean_energy(images, masks[:3], {"with map": model(32, 32)})
    with pytest.raises(ValueError, match="another size"):
        cam.mean_energy(images, [mask[1:] for mask in masks], {"with map": model(32, 32)})

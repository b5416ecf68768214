"""How much of a map lies inside the masks: by hand, in loops, and through the same view as the photograph."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn

from ufgvc.evaluation import cam_energy
from ufgvc.models.model import LoadedModel
from ufgvc.reports.samples import masked


class Bright(nn.Module):
    """Speaks for its one class where the photograph is red."""

    def __init__(self, named: bool = True) -> None:
        super().__init__()
        self.named = named

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        features = nn.functional.avg_pool2d(images[:, :1], 4)
        logits = features.mean(dim=(2, 3)) * torch.tensor([[1.0, -1.0]])
        return {"logits": logits, **({"features": features} if self.named else {})}


def model(resize: int, size: int, named: bool = True) -> LoadedModel:
    method = SimpleNamespace(net=Bright(named).eval(), last_map="features")
    return LoadedModel(cast(Any, method), ("a", "b"), {"resize": resize, "size": size}, {})


def test_shares_by_hand() -> None:
    maps = torch.zeros(4, 4, 4)
    maps[0, 0, 0], maps[0, 3, 3] = 1.0, 0.5
    maps[1] = 1
    maps[2, 1, 1] = 1
    masks = torch.zeros(4, 4, 4, dtype=torch.bool)
    masks[:, :2] = True
    found = cam_energy.energy_share(maps, masks)
    assert found[:3].tolist() == pytest.approx([1 / 1.5, 0.5, 1])
    assert math.isnan(found[3])
    assert cam_energy.mask_share(masks).tolist() == [0.5] * 4


def test_maps_grow_bilinearly_between_the_middles_of_their_cells() -> None:
    random = np.random.default_rng(0)
    maps, masks = random.random((3, 2, 3)).astype(np.float32), random.random((3, 8, 9)) < 0.4

    def grown(heat: np.ndarray, row: int, column: int) -> float:
        y, x = min(max((row + 0.5) * 2 / 8 - 0.5, 0), 1), min(max((column + 0.5) * 3 / 9 - 0.5, 0), 2)
        top, left = int(y), int(x)
        down, right = min(top + 1, 1), min(left + 1, 2)
        upper = heat[top, left] * (1 - (x - left)) + heat[top, right] * (x - left)
        lower = heat[down, left] * (1 - (x - left)) + heat[down, right] * (x - left)
        return float(upper * (1 - (y - top)) + lower * (y - top))

    found = cam_energy.energy_share(torch.from_numpy(maps), torch.from_numpy(masks))
    for place in range(3):
        cells = {(r, c): grown(maps[place].astype(float), r, c) for r in range(8) for c in range(9)}
        expected = sum(value for at, value in cells.items() if masks[place][at]) / sum(cells.values())
        assert float(found[place]) == pytest.approx(expected, abs=1e-9)


def test_the_mask_goes_through_the_view_of_the_photograph() -> None:
    """A painted block stays under its mask through the square and the crop, and the crop cuts both."""
    image, mask = np.zeros((60, 120, 3), np.uint8), np.zeros((60, 120), bool)
    mask[9:27, 18:66] = True
    image[mask] = 255
    one = model(40, 32)
    seen, inside = one.view([image])[0, 0], cam_energy.seen_masks(one, [mask])[0]
    assert inside.shape == (32, 32)
    assert torch.equal(seen > 0.5, inside)
    # Squared: rows 6 to 18, columns 6 to 22; the crop takes 4 px from each side.
    assert inside[2:14, 2:18].all()
    assert int(inside.sum()) == 12 * 16


def photographs() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Red in the left half; the masks cover it, the right half, nothing, and there is a leaf without red."""
    left = np.zeros((64, 96), bool)
    left[:, :48] = True
    image = np.zeros((64, 96, 3), np.uint8)
    image[left] = (200, 10, 10)
    return [image, image, image, np.zeros_like(image)], [left, ~left, np.zeros_like(left), left]


def test_means_take_the_leaves_that_have_a_mask_and_a_map() -> None:
    images, masks = photographs()
    found = cam_energy.mean_energy(
        images, masks, {"seen": model(32, 32), "blind": model(32, 32, named=False)}, batch_size=3
    )
    assert set(found) == {"seen"}
    share, chance, leaves = found["seen"]
    # The edge between red and black is blurred by growing the map, symmetrically for the two masks.
    assert (share, chance, leaves) == (pytest.approx(0.5), 0.5, 2)
    only = cam_energy.mean_energy(images[:1], masks[:1], {"seen": model(32, 32)})["seen"]
    assert 0.9 < only[0] <= 1
    share, chance, leaves = cam_energy.mean_energy(images[2:], masks[2:], {"seen": model(32, 32)})["seen"]
    assert (math.isnan(share), math.isnan(chance), leaves) == (True, True, 0)
    assert cam_energy.mean_energy([], [], {"seen": model(32, 32)})["seen"][2] == 0


def test_panels_tell_the_share_under_each_map() -> None:
    images, masks = photographs()
    models = {"whole": model(32, 32), "blind": model(32, 32, named=False), "middle": model(40, 32)}
    panels = cam_energy.energy_panels(images, masks, models, ["one", "two", "three", "four"])
    assert panels is not None
    assert panels.columns == ("leaf", "vein and contour", "whole", "middle")
    assert panels.captions == ("one", "two", "three", "four")
    share = round(100 * float(next(cam_energy.look(models["whole"], images[:1], masks[:1])).share))
    assert share > 90
    assert panels.marks[0][:3] == ("", "", f"{share}\u00a0% inside (mask is 50\u00a0% of the picture)")
    assert panels.marks[1][2] == f"{100 - share}\u00a0% inside (mask is 50\u00a0% of the picture)"
    assert panels.marks[2][2:] == ("no regions in view",) * 2
    assert panels.marks[3][2:] == ("an empty map",) * 2
    assert [picture.shape for picture in panels.images[0]] == [(64, 96, 3), (64, 96, 3), (32, 32, 3), (32, 32, 3)]
    np.testing.assert_array_equal(panels.images[0][1], masked(images[0], masks[0]))
    assert panels.to_png().startswith(b"\x89PNG")
    assert cam_energy.energy_panels([], [], models, []) is None
    assert cam_energy.energy_panels(images, masks, {"blind": model(32, 32, named=False)}, ["a"] * 4) is None


def test_a_mask_of_another_size_is_refused() -> None:
    images, masks = photographs()
    with pytest.raises(ValueError, match="another size"):
        cam_energy.mean_energy(images, masks[:3], {"seen": model(32, 32)})
    with pytest.raises(ValueError, match="another size"):
        cam_energy.mean_energy(images, [mask[1:] for mask in masks], {"seen": model(32, 32)})

"""What the probes read: stages of a backbone, statistics of their maps inside regions, parts of the leaf."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ufgvc.core.errors import UserError
from ufgvc.methods import build
from ufgvc.methods.backbones import build_backbone
from ufgvc.methods.layers.leaf_parts import leaf_parts
from ufgvc.methods.layers.leaf_segmentation import find_leaf
from ufgvc.methods.layers.stages import StageMaps, choose_stages, list_stages, region_statistics


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("resnet18", [(64, 2), (64, 4), (64, 4), (128, 8), (256, 16), (512, 32)]),
        (
            "efficientnet_lite0",
            [(32, 2), (16, 2), (24, 4), (40, 8), (80, 16), (112, 16), (192, 32), (320, 32)],
        ),
    ],
)
def test_stages_of_a_backbone(name: str, shapes: list[tuple[int, int]]) -> None:
    stages = list_stages(build_backbone(name, "none"))
    found = [(stage.channels, stage.stride) for stage in stages]
    assert [each for n, each in enumerate(found) if n == 0 or each != found[n - 1]] == list(dict.fromkeys(shapes))
    deep = [each for each in found if each[1] >= 8]
    assert [(each.channels, each.stride) for each in choose_stages(stages, (), with_last=True)] == deep
    assert [(each.channels, each.stride) for each in choose_stages(stages, (), with_last=False)] == deep[:-1]


@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224", "swin_t"])
def test_a_transformer_has_its_last_map(name: str) -> None:
    backbone = build_backbone(name, "none")
    *_, last = list_stages(backbone)
    assert last.channels == backbone.channels


def test_a_stage_that_there_is_not_is_one_message() -> None:
    with pytest.raises(UserError, match="the backbone has no stage 99") as caught:
        build("linear_probe", 3, backbone="resnet18", stages=(4, 99))
    assert "channels, stride 32" in str(caught.value)


def test_maps_are_those_of_the_stages() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("resnet18", "none").eval()
    images = torch.rand(2, 3, 64, 64)
    maps = StageMaps(choose_stages(list_stages(backbone), (), with_last=True)).run(backbone, images)
    trunk, wanted = backbone.trunk, backbone.normalise(images)
    for name in ("conv1", "bn1", "relu", "maxpool", "layer1"):
        wanted = getattr(trunk, name)(wanted)
    for name, found in zip(("layer2", "layer3", "layer4"), maps, strict=True):
        wanted = getattr(trunk, name)(wanted)
        assert torch.equal(found, wanted), name


def test_statistics_are_weighted_means_and_standard_deviations() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, channels, side, side, generator=generator) + 50 for channels, side in ((3, 8), (5, 4))]
    regions = torch.rand(2, 2, 16, 16, generator=generator)
    regions[1, 1] = 0
    found = region_statistics(maps, regions).double().numpy()
    for image in range(2):
        wanted: list[float] = []
        for each in maps:
            channels, side = each.shape[1:3]
            step = 16 // side
            for region in range(2):
                weights = np.zeros((side, side))
                for row in range(side):
                    for column in range(side):
                        cell = regions[
                            image, region, row * step : (row + 1) * step, column * step : (column + 1) * step
                        ]
                        weights[row, column] = float(cell.double().mean())
                values = each[image].double().numpy()
                if weights.sum() == 0:
                    wanted += [0.0] * channels + [1e-4] * channels
                    continue
                mean = [(weights * values[c]).sum() / weights.sum() for c in range(channels)]
                variance = [(weights * (values[c] - mean[c]) ** 2).sum() / weights.sum() for c in range(channels)]
                wanted += [*mean, *np.sqrt(np.maximum(variance, 1e-8))]
        assert np.allclose(found[image], wanted, atol=1e-4)


@pytest.mark.parametrize("parts", [1, 3])
def test_parts_add_up_to_the_leaf_and_are_equal(parts: int) -> None:
    images = torch.ones(2, 3, 60, 40)
    images[0, :, 7:53, 10:30] = 0.2  # a rectangle
    images[1, :, 5:35, 18:22] = 0.1  # a stalk above a blade
    images[1, :, 35:55, 5:35] = 0.1
    found, leaf = leaf_parts(images, parts), find_leaf(images)
    assert torch.allclose(found.sum(dim=1, keepdim=True), leaf, atol=1e-5)
    area = found.sum(dim=(2, 3))
    assert torch.allclose(area, area.mean(dim=1, keepdim=True).expand_as(area), rtol=1e-4)
    for image in range(2):  # from top to bottom: row by row, from the definition
        rows = leaf[image, 0].double().sum(dim=1)
        passed = 0.0
        for row, amount in enumerate(rows.tolist()):
            for part in range(parts):
                low, high = rows.sum().item() * part / parts, rows.sum().item() * (part + 1) / parts
                inside = max(0.0, min(passed + amount, high) - max(passed, low))
                assert found[image, part, row].sum().item() == pytest.approx(inside, abs=1e-3)
            passed += amount


def test_a_photograph_without_a_leaf_is_all_leaf() -> None:
    plain = leaf_parts(torch.full((1, 3, 30, 30), 0.5), 3)
    assert torch.allclose(plain.sum(dim=1), torch.ones(1, 30, 30), atol=1e-5)

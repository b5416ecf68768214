"""Which networks are trained channels last, and which cannot be on a GPU."""

import pytest
import torch
from torch import nn

from ufgvc.methods import build
from ufgvc.methods.layers.layout import memory_format, pads_averages
from ufgvc.methods.layers.normalise import Normalise

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("layer", "padded"),
    [
        (nn.AvgPool2d(3, 1, 1), True),
        (nn.AvgPool2d(3, 1, (0, 1)), True),
        (nn.AvgPool2d(2, 2), False),
        (nn.AvgPool2d(2, 2, (0, 0)), False),
        (nn.MaxPool2d(3, 2, 1), False),
    ],
)
def test_averages_of_padded_maps_are_found(layer: nn.Module, padded: bool) -> None:
    assert pads_averages(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(layer))) == padded


def test_inception_alone_is_trained_in_the_ordinary_format_on_a_gpu() -> None:
    for name, options in (("inception_v3", {}), ("mask_guided", {"backbone": "inception_v3"})):
        method = build(name, num_classes=2, init="none", **options)
        assert memory_format(method.net, GPU) == torch.contiguous_format
        assert memory_format(method.net, CPU) == torch.channels_last
        assert method.net.backbone.normalise.contiguous
    plain = build("resnet50", num_classes=2, init="none", backbone="resnet18")
    assert memory_format(plain.net, GPU) == torch.channels_last
    assert not plain.net.backbone.normalise.contiguous


def test_on_a_cpu_images_keep_their_format() -> None:
    images = torch.rand(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    found = Normalise(contiguous=True)(images)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, Normalise()(images))

"""Networks on a GPU: memory format of training, cuDNN's benchmark mode, the device of a model's images."""

import numpy as np
import pytest
import torch
from torch import nn

from ufgvc.methods import build
from ufgvc.methods.backbones import Normalise, has_padded_average_pooling, memory_format
from ufgvc.models.model import LoadedModel
from ufgvc.training.steps import use_cudnn_benchmark

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
    assert has_padded_average_pooling(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(layer))) == padded


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


def test_a_short_training_does_not_wait_for_a_search_of_algorithms() -> None:
    recipe = build("mask_guided", num_classes=2, init="none", backbone="resnet18").recipe  # 360 epochs, batches of 16
    assert not use_cudnn_benchmark(recipe, images=80, device=GPU)
    assert use_cudnn_benchmark(recipe, images=81, device=GPU)
    assert not use_cudnn_benchmark(recipe, images=10_000, device=CPU)


def test_a_model_knows_where_its_network_is_whoever_moved_it() -> None:
    """`evaluate` moves the networks that it scores, and draws activation maps with the same models afterwards."""
    method = build("resnet50", num_classes=2, init="none", backbone="shufflenet_v2_x0_5")
    model = LoadedModel(method, ("a", "b"), {"resize": 32, "size": 32}, {})
    assert model.device == CPU
    moved = model.to("meta")
    assert model.device == moved.device == torch.device("meta")
    assert model.view([np.zeros((40, 40, 3), np.uint8)]).device == model.device

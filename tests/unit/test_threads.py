"""CPU threads of a training step, by the size of the network's layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ufgvc.methods import build
from ufgvc.training.threads import (
    MULTIPLICATIONS_PER_THREAD,
    choose_threads,
    multiplications_per_layer,
    threads_restored,
)


def test_multiplications_are_those_of_the_layers_loops() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),  # 8 x 16 x 16 outputs of 3 x 3 x 3
        nn.Conv2d(8, 8, 3, padding=1, groups=4),  # 8 x 16 x 16 outputs of 2 x 3 x 3
        nn.Flatten(),
        nn.Linear(2048, 5),
    )
    counted = 8 * 16 * 16 * 27 + 8 * 16 * 16 * 18 + 5 * 2048
    assert multiplications_per_layer(net, 32) == pytest.approx(counted / 3)


def test_a_layer_that_is_called_twice_counts_twice_and_a_net_without_layers_is_none() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.layer(self.layer(images)[..., ::2, ::2])

    assert multiplications_per_layer(Twice(), 4) == (3 * 16 * 3 + 3 * 4 * 3) / 2
    assert multiplications_per_layer(nn.ReLU(), 4) == 0


@pytest.mark.parametrize(("batch_size", "cores", "threads"), [(1, 8, 1), (3, 8, 1), (8, 8, 3), (8, 2, 2), (99, 8, 8)])
def test_each_thread_has_its_share_of_a_layer(batch_size: int, cores: int, threads: int) -> None:
    layer = nn.Conv2d(3, 16, 1)  # 3.8 million multiplications for an image of 280 px
    assert 0.37 < multiplications_per_layer(layer, 280) / MULTIPLICATIONS_PER_THREAD < 0.38
    assert choose_threads(layer, 280, batch_size, cores) == threads


def test_counting_changes_neither_weights_nor_statistics_nor_random_numbers() -> None:
    method = build("mask_guided", num_classes=3, init="none", backbone="shufflenet_v2_x0_5")
    before = {name: value.clone() for name, value in method.net.state_dict().items()}
    random = torch.get_rng_state()
    assert choose_threads(method.net.train(), 64, 16, 8) == 1
    assert all(torch.equal(value, before[name]) for name, value in method.net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(layer._forward_hooks for layer in method.net.modules())


def test_threads_are_restored_also_after_an_error() -> None:
    before = torch.get_num_threads()

    def fail() -> None:
        with threads_restored():
            torch.set_num_threads(before + 1)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.get_num_threads() == before

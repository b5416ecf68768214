"""Several trainings that share one GPU, measured here in this process on the CPU."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

import pytest
import torch

from cluster.gpu.sharing import take_steps


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_process_tells_its_rate() -> None:
    rates: queue.Queue[float | None] = queue.Queue()
    take_steps("cpu", False, threading.Barrier(1), rates)
    rate = rates.get_nowait()
    assert rate is not None
    assert rate > 0


def test_one_that_fails_ends_the_others() -> None:
    """Else they would wait for it longer than the whole part may last."""
    rates: queue.Queue[float | None] = queue.Queue()
    ready = threading.Barrier(2)
    with pytest.raises(KeyError):
        take_steps("a device that there is not", False, ready, rates)
    assert ready.broken
    assert rates.get_nowait() is None

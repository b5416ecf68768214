"""Waiting for data: on a CPU the time in the loader, on a GPU only where the GPU was idle."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch

from ufgvc.training.data_wait import DataWait

PAUSE = 0.02


def slow_loader(batches: int) -> Iterator[int]:
    for batch in range(batches):
        time.sleep(PAUSE)
        yield batch


def test_a_cpu_waits_while_the_loader_works_and_not_while_a_step_runs() -> None:
    waited = DataWait(torch.device("cpu"))
    for seen, _batch in enumerate(waited.watch(slow_loader(3)), start=1):
        assert waited.seconds >= seen * PAUSE
        before = waited.seconds
        time.sleep(PAUSE)
        assert waited.seconds == before
    assert list(waited.watch([])) == []


def test_a_gpu_that_is_still_at_work_when_a_batch_comes_did_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event stands in for a GPU: it is busy after the first step and idle after the second."""
    busy = iter([False, True, False])  # before the first step, after it, after the second

    class Event:
        def query(self) -> bool:
            return not next(busy)

        def record(self, stream: object) -> None:
            assert stream == "stream of cuda:0"

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    waited = DataWait(torch.device("cuda:0"))
    seconds = []
    for _ in waited.watch(slow_loader(3)):
        seconds.append(waited.seconds)
    assert seconds[0] >= PAUSE
    assert seconds[1] == seconds[0]
    assert seconds[2] >= seconds[1] + PAUSE

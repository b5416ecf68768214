"""How long the training device has nothing to do because the next batch is not there."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

Batch = TypeVar("Batch")


class DataWait:
    """Counts, over an epoch, the time in the loader while the device was idle.

    On a CPU that is all of it. A GPU works on while the host asks for the next batch: there the time counts only if the
    GPU has done all steps when the batch arrives. That is an upper bound, since the GPU may have been done a moment
    before, and it costs no synchronisation.

    seconds: so far.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self.device = device

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches, one after the other; the step of each is expected on the current stream before the next."""
        step_done = torch.cuda.Event() if self.device.type == "cuda" else None
        mark = time.monotonic()
        for batch in batches:
            if step_done is None or step_done.query():  # true also before the first step
                self.seconds += time.monotonic() - mark
            yield batch
            if step_done is not None:
                step_done.record(torch.cuda.current_stream(self.device))
            mark = time.monotonic()

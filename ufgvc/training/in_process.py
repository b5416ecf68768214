"""A training by this process alone, without Ray."""

from __future__ import annotations

from typing import Any

import torch

from ufgvc.training.checkpoint import RunCheckpoint, newest_state, read_ray_checkpoint
from ufgvc.training.metrics_file import OnProgress
from ufgvc.training.settings import WorkerConfig
from ufgvc.training.threads import threads_restored
from ufgvc.training.worker import Worker


def train_in_process(
    config: WorkerConfig, device: torch.device, on_progress: OnProgress | None = None
) -> dict[str, Any]:
    """Trains in this process without Ray Train, from the run's newest checkpoint if there is one. Returns the last one.

    The run may have been trained with Ray Train before, for example on a cluster that is no more.
    """
    checkpoint = RunCheckpoint.of(config.run)
    state = newest_state(checkpoint.read(), read_ray_checkpoint(config.run))
    with threads_restored():
        worker = Worker.start(config, 0, 1, 1, device, state, checkpoint.write)
        worker.metrics.on_progress = on_progress
        worker.run()
    state = checkpoint.read()
    assert state is not None
    return state

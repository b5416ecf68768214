"""Trains all folds of a trial epoch by epoch, so that the trial can be stopped after any epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ufgvc.training.checkpoint import RunCheckpoint
from ufgvc.training.settings import WorkerConfig
from ufgvc.training.worker import Worker


class Diverged(Exception):
    """A loss is infinite or NaN."""


@dataclass
class Folds:
    """One rank of all folds.  workers: one for each fold, with its own net.

    random: state of torch's generator for each fold, because the folds share a process.
    """

    workers: list[Worker]
    random: list[Tensor]

    @classmethod
    def start(
        cls, configs: Sequence[WorkerConfig], rank: int, world_size: int, local_world_size: int, device: torch.device
    ) -> Folds:
        """Starts every fold from its last checkpoint. Each gives the same numbers as if it were trained alone.

        configs: one for each fold.  rank, world_size, local_world_size, device: see `Worker.start`.
        """
        workers, random = [], []
        for config in configs:
            checkpoint = RunCheckpoint.of(config.run)
            state, sink = checkpoint.read(), checkpoint.write
            workers.append(Worker.start(config, rank, world_size, local_world_size, device, state, sink))
            random.append(torch.get_rng_state())
        return cls(workers, random)

    @property
    def epochs(self) -> int:
        """Epochs that all folds have finished."""
        return min(worker.epoch for worker in self.workers)

    @property
    def total(self) -> int:
        """Epochs of the recipe."""
        return self.workers[0].recipe.epochs

    def flush_metrics(self) -> None:
        """Writes the rows that are still to be written, see `MetricsWriter`."""
        for worker in self.workers:
            if worker.ranks.rank == 0:
                worker.metrics.flush(worker.history)

    def step(self) -> None:
        """One epoch of every fold, except of those that are ahead because a kill came between two checkpoints.

        Diverged, with fold and epoch, if a loss is not finite.
        """
        done = self.epochs
        for fold, worker in enumerate(self.workers):
            if worker.epoch > done:
                continue
            torch.set_rng_state(self.random[fold])
            row = worker.step()
            self.random[fold] = torch.get_rng_state()
            if not (math.isfinite(row["loss"]) and math.isfinite(row["validation_loss"])):
                raise Diverged(f"training diverged in fold {fold}, epoch {worker.epoch}: no finite loss")

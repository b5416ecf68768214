"""The folds of one setting trained in step: after every epoch each has learnt as long as the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ufgvc.training.in_process import RunCheckpoint
from ufgvc.training.loader import WorkerConfig
from ufgvc.training.worker import Worker


class Diverged(Exception):
    """A loss became infinite or no number."""


@dataclass
class Folds:
    """One rank of all folds.  workers: a net each.  random: (folds) states of torch's generator, which the folds of a process share."""

    workers: list[Worker]
    random: list[Tensor]

    @classmethod
    def start(
        cls, plans: Sequence[WorkerConfig], rank: int, world: int, local_world: int, device: torch.device
    ) -> Folds:
        """Every fold from its own last checkpoint; with the same numbers as if it were trained alone."""
        workers, random = [], []
        for plan in plans:
            kept = RunCheckpoint.of(plan)
            workers.append(Worker.start(plan, rank, world, local_world, device, kept.read(), kept.write))
            random.append(torch.get_rng_state())
        return cls(workers, random)

    @property
    def epochs(self) -> int:
        """Epochs that every fold has done."""
        return min(worker.epoch for worker in self.workers)

    @property
    def total(self) -> int:
        return self.workers[0].recipe.epochs

    def step(self) -> None:
        """One epoch of every fold that is not ahead (a kill may have come between two checkpoints). Diverged, with fold and epoch."""
        done = self.epochs
        for fold, worker in enumerate(self.workers):
            if worker.epoch > done:
                continue
            torch.set_rng_state(self.random[fold])
            row = worker.step()
            self.random[fold] = torch.get_rng_state()
            if not (math.isfinite(row["loss"]) and math.isfinite(row["validation_loss"])):
                raise Diverged(f"training diverged in fold {fold}, epoch {worker.epoch}: no finite loss")

"""Training in one process, without Ray Train: what a trial of a benchmark or a search does on its share of a machine."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ufgvc.core.storage import Store, open_store
from ufgvc.training.checkpoint import FILE, read_checkpoint
from ufgvc.training.loader import WorkerConfig
from ufgvc.training.worker import Worker


@dataclass(frozen=True)
class RunCheckpoint:
    """The one checkpoint of a run that keeps its own, in <run>/checkpoints/alone."""

    store: Store

    @classmethod
    def of(cls, plan: WorkerConfig) -> RunCheckpoint:
        return cls(open_store(plan.run).child("checkpoints", "alone"))

    def write(self, folder: Path | None, epoch: int) -> None:
        """Takes rank 0's checkpoint; the other ranks bring none."""
        if folder is not None:
            self.store.write_bytes(FILE, (folder / FILE).read_bytes())
            shutil.rmtree(folder)

    def read(self) -> dict[str, Any] | None:
        """None before the first one."""
        if not self.store.exists(FILE):
            return None
        with tempfile.TemporaryDirectory(prefix="ufgvc-checkpoint-") as folder:
            (Path(folder) / FILE).write_bytes(self.store.read_bytes(FILE))
            return read_checkpoint(Path(folder))


def train_alone(plan: WorkerConfig, device: torch.device) -> dict[str, Any]:
    """Trains in this process, without Ray Train, and returns the last checkpoint's content. Goes on from what the run folder holds."""
    kept = RunCheckpoint.of(plan)
    Worker.start(plan, 0, 1, 1, device, kept.read(), kept.write).run()
    state = kept.read()
    assert state is not None
    return state

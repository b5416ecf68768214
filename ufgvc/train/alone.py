"""Training in one process, without Ray Train: what a trial of a benchmark or a search does on its share of a machine."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from ufgvc.core.storage import open_store
from ufgvc.train.checkpoint import FILE, read_checkpoint
from ufgvc.train.feed import Plan
from ufgvc.train.loop import Worker


def train_alone(plan: Plan, device: torch.device) -> dict[str, Any]:
    """Trains in this process, without Ray Train, and returns the last checkpoint's content. Goes on from what the run folder holds."""
    store = open_store(plan.run).child("checkpoints", "alone")

    def keep(folder: Path | None, epoch: int) -> None:
        assert folder is not None
        store.write_bytes(FILE, (folder / FILE).read_bytes())
        shutil.rmtree(folder)

    def kept() -> dict[str, Any] | None:
        if not store.exists(FILE):
            return None
        with tempfile.TemporaryDirectory(prefix="ufgvc-checkpoint-") as folder:
            (Path(folder) / FILE).write_bytes(store.read_bytes(FILE))
            return read_checkpoint(Path(folder))

    Worker.start(plan, 0, 1, 1, device, kept(), keep).run()
    state = kept()
    assert state is not None
    return state

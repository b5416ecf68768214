"""Writing and reading checkpoints. They hold tensors and plain values only, no pickled objects.

A run keeps them below <run>/checkpoints: in the folders that Ray Train names, or in `alone`, of a training without it.
"""

from __future__ import annotations

import glob
import io
import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from ufgvc.core.errors import disk_errors
from ufgvc.core.storage import Store, open_store
from ufgvc.training.average import WeightAverage

FILE = "state.pt"
TEMPORARY = "ufgvc-checkpoint-"  # first part of the names of temporary folders
SNAPSHOT = "checkpoint_manager_snapshot.json"  # Ray Train's list of the checkpoints that are complete
# Stores a checkpoint: (local folder on rank 0, None on other ranks; number of finished epochs). Called on every rank.
CheckpointSink = Callable[[Path | None, int], None]


def write_checkpoint(
    folder: Path,
    *,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    stage: int,
    history: list[dict[str, float]],
    best: dict[str, Any] | None,
    random: list[Tensor],
    average: WeightAverage | None = None,
) -> None:
    """Writes <folder>/state.pt. UserError if the disk is full or cannot be written to.

    epoch: number of finished epochs.  history: one row of metrics an epoch.  random: state of each rank's generator.
    best: epoch, accuracy and weights ("net") of the best epoch so far, and (logits, labels) of its held-out training
    images.  average: of the net's weights, which then are the checkpoint's "net"; the net's own are "trained".
    """
    state = {
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": epoch,
        "stage": stage,
        "history": history,
        "best": best,
        "random": random,
    }
    if average is not None:
        state |= {"net": average.net.state_dict(), "trained": net.state_dict(), "averaged": average.steps}
    with disk_errors(folder / FILE), (folder / FILE).open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch's own error for a file that could not be completed
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def read_checkpoint(folder: Path) -> dict[str, Any]:
    """The state that `write_checkpoint` wrote, on the CPU."""
    return dict(torch.load(folder / FILE, map_location="cpu", weights_only=True))


def _load(content: bytes) -> dict[str, Any]:
    return dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))


def read_ray_checkpoint(run: str) -> dict[str, Any] | None:
    """The state of the newest complete checkpoint of Ray Train in the run with this URI, without Ray; None if there is
    none.
    """
    store = open_store(run).child("checkpoints")
    if not store.exists(SNAPSHOT):
        return None
    known = store.read_text(SNAPSHOT)
    names = [name for name in store.list() if name.endswith(f"/{FILE}") and name.split("/")[0] in known]
    return _load(store.read_bytes(max(names))) if names else None  # the names hold the time


def newest_state(*states: dict[str, Any] | None) -> dict[str, Any] | None:
    """The state with the most finished epochs; None if there is none."""
    return max((state for state in states if state is not None), key=lambda state: int(state["epoch"]), default=None)


@dataclass(frozen=True)
class RunCheckpoint:
    """The checkpoint of a training without Ray Train, <run>/checkpoints/alone; each one replaces the previous one."""

    store: Store

    @classmethod
    def of(cls, run: str) -> RunCheckpoint:
        """The checkpoint of the run with this URI."""
        return cls(open_store(run).child("checkpoints", "alone"))

    def write(self, folder: Path | None, epoch: int) -> None:
        """Moves rank 0's checkpoint into the run. A `CheckpointSink`."""
        if folder is not None:
            self.store.write_bytes(FILE, (folder / FILE).read_bytes())
            shutil.rmtree(folder)

    def read(self) -> dict[str, Any] | None:
        """The state of the checkpoint; None if there is none."""
        if not self.store.exists(FILE):
            return None
        return _load(self.store.read_bytes(FILE))


def make_checkpoint_folder() -> Path:
    """A new temporary folder. Those of processes of this machine that have ended are deleted: a kill left them.

    The folder's name says the machine, because containers may share their temporary folder, and the process.
    """
    own = f"{TEMPORARY}{socket.gethostname()}-"
    for left in Path(tempfile.gettempdir()).glob(f"{glob.escape(own)}*"):
        process = left.name[len(own) :].partition("-")[0]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            shutil.rmtree(left, ignore_errors=True)  # another training may delete it at the same time
    return Path(tempfile.mkdtemp(prefix=f"{own}{os.getpid()}-"))


def remove_orphans(store: Store) -> list[str]:
    """Deletes checkpoint folders that Ray Train's snapshot does not list, which a crash left incomplete. Returns their
    names.

    store: the folder that holds Ray Train's SNAPSHOT.
    """
    names = sorted({name.split("/")[0] for name in store.list() if name.startswith("checkpoint_") and "/" in name})
    known = store.read_text(SNAPSHOT) if store.exists(SNAPSHOT) else ""
    orphans = [name for name in names if name not in known]
    for name in orphans:
        store.delete_tree(name)
    return orphans

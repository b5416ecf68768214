"""What a checkpoint holds, and how it is written and read. No pickled objects: tensors and plain values only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ufgvc.core.errors import disk_errors

FILE = "state.pt"


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
    run_id: str | None,
) -> None:
    """epoch: how many are done.  random: the state of every rank's generator.

    best: epoch, accuracy and weights of the best epoch so far, and its (logits, labels) of leaves held out of the training split.
    """
    state = {
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": epoch,
        "stage": stage,
        "history": history,
        "best": best,
        "random": random,
        "run_id": run_id,
    }
    with disk_errors(folder / FILE), (folder / FILE).open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch's own, at a file that it could not finish
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def read_checkpoint(folder: Path) -> dict[str, Any]:
    return dict(torch.load(folder / FILE, map_location="cpu", weights_only=True))


def remove_orphans(store: Any) -> list[str]:
    """Deletes checkpoint folders that Ray Train's snapshot does not know: what a crash left half written. Returns their names.

    store: the folder that holds Ray Train's `checkpoint_manager_snapshot.json`.
    """
    names = sorted({name.split("/")[0] for name in store.list() if name.startswith("checkpoint_") and "/" in name})
    snapshot = "checkpoint_manager_snapshot.json"
    known = store.read_text(snapshot) if store.exists(snapshot) else ""
    orphans = [name for name in names if name not in known]
    for name in orphans:
        store.delete_tree(name)
    return orphans

"""A trial of several workers: a TorchTrainer inside the trial, whose ranks train the folds in step.

Ray Train's worker groups are not among Tune's resources, and one whose trial is killed outlives it. So a trial is never killed to stop
it: rank 0 finds the trial's stop file after an epoch, all ranks return, and the trainer clears its group away itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ufgvc.core.storage import Store, open_store
from ufgvc.training.checkpoint import read_checkpoint
from ufgvc.training.distributed import make_trainer
from ufgvc.training.folds import Diverged, Folds
from ufgvc.training.settings import WorkerConfig
from ufgvc.training.progress import POLL_SECONDS, read_metrics
from ufgvc.training.settings import TrainSettings
from ufgvc.training.worker import train_worker

STOP = "stop.json"  # in a trial's folder: it should end


def folds_together(
    plans: Sequence[WorkerConfig], settings: TrainSettings, trial: Store
) -> Iterator[list[list[dict[str, float]]]]:
    """The histories of all folds whenever all of them have done another epoch. Closed early, it waits until the ranks have ended.

    Diverged as in one process; what else ends the ranks more often than `max_failures` is raised.
    """
    told = {"plans": [asdict(plan) for plan in plans], "trial": trial.uri}
    with ThreadPoolExecutor(1) as thread:
        fit = thread.submit(make_trainer(fold_worker, told, settings, trial, "trainer", keep=None).fit)
        seen = 0
        while True:
            ended = fit.done()  # asked first, so that the last epochs are seen
            histories = [read_metrics(open_store(plan.run)) for plan in plans]
            if min(map(len, histories)) > seen:
                seen = min(map(len, histories))
                yield histories
            if ended:
                break
            wait([fit], POLL_SECONDS)
    trial.child("trainer").delete_tree()
    problem = (fit.result().return_value or {}).get("diverged")
    if problem is not None:
        raise Diverged(problem)


def train_together(plan: WorkerConfig, settings: TrainSettings) -> dict[str, Any]:
    """What `train_in_process` does, on several ranks: the last checkpoint's content."""
    store = open_store(plan.run)
    result = make_trainer(train_worker, asdict(plan), settings, store, "checkpoints", keep=None).fit()
    if result.checkpoint is None:
        raise RuntimeError(f"{store.uri}: training ended without a checkpoint")
    with result.checkpoint.as_directory() as folder:
        return read_checkpoint(Path(folder))


def fold_worker(config: dict[str, Any]) -> dict[str, Any]:
    """One rank of a trial. A net that diverged is a result, or Ray Train would start the ranks again."""
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    ranks = context.get_world_rank(), context.get_world_size(), context.get_local_world_size()
    folds = Folds.start([WorkerConfig(**plan) for plan in config["plans"]], *ranks, ray.train.torch.get_device())
    trial = open_store(config["trial"])
    try:
        while folds.epochs < folds.total:
            folds.step()
            if folds.workers[0].agree(trial.exists(STOP)):
                break
    except Diverged as error:
        return {"diverged": str(error)}
    return {}

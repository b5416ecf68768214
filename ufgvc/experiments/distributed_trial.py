"""A trial of several workers: a TorchTrainer inside the trial, whose ranks train the folds in step.

The worker groups of Ray Train are not among the resources of Tune, and a group outlives a trial that is killed. So a
trial is never killed to stop it: rank 0 finds the stop file of the trial after an epoch, all ranks return, and the
trainer removes its group itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from ufgvc.core.storage import Store, open_store
from ufgvc.experiments.search_store import STOP
from ufgvc.training.distributed import fit, make_trainer
from ufgvc.training.folds import Diverged, Folds
from ufgvc.training.metrics_file import MetricsReader, Row
from ufgvc.training.progress import poll_seconds
from ufgvc.training.settings import TrainSettings, WorkerConfig


def train_folds_distributed(
    configs: Sequence[WorkerConfig], settings: TrainSettings, trial: Store
) -> Iterator[list[list[Row]]]:
    """Yields the histories of all folds whenever all of them have finished another epoch.

    Closed early, it waits until the ranks have ended. Raises Diverged as training in one process does, and whatever
    ends the ranks more often than `max_failures`.
    """
    worker_args = {"configs": list(configs), "trial": trial.uri}
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(make_trainer(fold_worker, worker_args, settings, trial, "trainer", keep=None).fit)
        readers, seen = [MetricsReader(open_store(config.run)) for config in configs], 0
        while True:
            ended = future.done()  # read before the histories, so that the last epochs are seen
            histories = [reader.read() for reader in readers]
            if min(map(len, histories)) > seen:
                seen = min(map(len, histories))
                yield histories
            if ended:
                break
            wait([future], poll_seconds(trial, min(histories, key=len)))
    trial.child("trainer").delete_tree()
    reason = (future.result().return_value or {}).get("diverged")
    if reason is not None:
        raise Diverged(reason)


def train_distributed(config: WorkerConfig) -> dict[str, Any]:
    """Trains as `train_in_process` does, on several ranks; returns the content of the last checkpoint."""
    return fit(config, open_store(config.run), keep=None)


def fold_worker(worker_args: dict[str, Any]) -> dict[str, Any]:
    """One rank of a trial. Divergence is returned, because Ray Train restarts ranks that raise."""
    import ray.train
    import ray.train.torch

    context = ray.train.get_context()
    ranks = context.get_world_rank(), context.get_world_size(), context.get_local_world_size()
    folds = Folds.start(worker_args["configs"], *ranks, ray.train.torch.get_device())
    trial = open_store(worker_args["trial"])
    try:
        while folds.epochs < folds.total:
            folds.step()
            if folds.workers[0].ranks.broadcast_flag(trial.exists(STOP)):
                break
    except Diverged as error:
        return {"diverged": str(error)}
    finally:
        folds.flush_metrics()
    return {}

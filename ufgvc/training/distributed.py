"""Training with Ray Train: the trainer, the function that runs on each worker, and what happens when a worker fails."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from ufgvc.core.storage import Store
from ufgvc.runtime.session import in_local_session
from ufgvc.training.checkpoint import RunCheckpoint, newest_state, read_checkpoint
from ufgvc.training.controller import ProcessGroupConfig, StopOnUserError, lost_nodes, skip
from ufgvc.training.preflight import choose_training_device, worker_resources
from ufgvc.training.settings import TrainSettings, WorkerConfig
from ufgvc.training.worker import Worker

# Actors of Ray Train, each a process that imports Ray and pandas, which nothing here needs.
UNUSED = {"DatasetsCallback"}  # hands out datasets that a trainer was given; ours read their own
# Removes the placement group of a controller that was killed, which otherwise stays until the end of the job.
CLEANER = "PlacementGroupCleanerCallback"


class LeanTrainer(TorchTrainer):
    """A TorchTrainer that starts fewer processes next to its workers.

    It changes what Ray Train hands to its controller by names that are not public. Under other names all start again.
    """

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        in_trial = ray.get_runtime_context().get_actor_id() is not None  # its job goes on
        unused = UNUSED if in_trial else {*UNUSED, CLEANER}
        if "callbacks" in parts:
            parts["callbacks"] = [each for each in parts["callbacks"] if type(each).__name__ not in unused]
        if in_local_session() and "scaling_policy" in parts:  # which has no autoscaler that they could be announced to
            for name in ("_send_resource_request", "_maybe_send_resource_request", "_cancel_resource_request"):
                setattr(parts["scaling_policy"], name, skip)
        return super()._initialize_and_run_controller(**parts)  # type: ignore[misc]  # see RunConfig below


def make_trainer(
    worker: Callable[[dict[str, Any]], Any],
    config: dict[str, Any],
    settings: TrainSettings,
    store: Store,
    name: str,
    keep: int | None,
) -> Any:
    """A TorchTrainer that runs `worker(config)` on each rank, with its state in <store>/<name>. Needs a Ray session.

    keep: number of checkpoints that are kept; None: all.  UserError if `settings` need GPUs that the cluster lacks.
    """
    device = choose_training_device(settings, ray.cluster_resources().get("GPU", 0))
    return LeanTrainer(
        partial(worker, config),  # not in `train_loop_config`, which the controller reads: it would import torch
        torch_config=ProcessGroupConfig("nccl" if device == "cuda" else "gloo"),  # type: ignore[arg-type]
        scaling_config=ScalingConfig(
            num_workers=settings.workers,
            use_gpu=device == "cuda",
            resources_per_worker=worker_resources(settings, device),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=store.path,
            storage_filesystem=store.fs,
            checkpoint_config=CheckpointConfig(num_to_keep=keep),
            failure_config=FailureConfig(max_failures=settings.max_failures),
            # mypy sees the RunConfig of Ray Train before version 2
            callbacks=[StopOnUserError(f"{store.uri}/{name}", lost_nodes(ray.nodes()))],  # type: ignore[list-item]
        ),
    )


def fit(config: WorkerConfig, store: Store, keep: int | None) -> dict[str, Any]:
    """Trains with Ray Train, from the last checkpoint if there is one. Returns the state of the last checkpoint."""
    result = make_trainer(train_worker, {"config": config}, config.train, store, "checkpoints", keep).fit()
    if result.checkpoint is None:
        raise RuntimeError(f"{store.uri}: training ended without a checkpoint")
    with result.checkpoint.as_directory() as folder:
        return read_checkpoint(Path(folder))


def train_worker(config: dict[str, Any]) -> dict[str, Any] | None:
    """Trains one rank of Ray Train.  config: {"config": WorkerConfig}.  Returns the last epoch's metrics on rank 0."""
    import ray.train.torch

    context = ray.train.get_context()
    checkpoint = ray.train.get_checkpoint()
    state = None
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            state = read_checkpoint(Path(folder))
    if context.get_world_size() == 1:  # the run may have been started without Ray Train
        state = newest_state(state, RunCheckpoint.of(config["config"].run).read())
    ranks = context.get_world_rank(), context.get_world_size(), context.get_local_world_size()
    return Worker.start(config["config"], *ranks, ray.train.torch.get_device(), state, report).run()


def report(folder: Path | None, epoch: int) -> None:
    """Passes a checkpoint to Ray Train, which uploads it in the background. A `CheckpointSink` (all ranks call it)."""
    if folder is None:
        ray.train.report({})
        return
    ray.train.report(
        {"epoch": epoch},
        checkpoint=ray.train.Checkpoint.from_directory(folder),
        checkpoint_upload_mode=ray.train.CheckpointUploadMode.ASYNC,
        delete_local_checkpoint_after_upload=True,
    )

"""Training with Ray Train: the trainer, the function that runs on each worker, and what happens when a worker fails."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import ray
import ray.util
from ray.train import (
    CheckpointConfig,
    FailureConfig,
    PreemptionError,
    PreemptionInfo,
    RunConfig,
    ScalingConfig,
    UserCallback,
)
from ray.train.torch import TorchConfig, TorchTrainer

from ufgvc.core.errors import MachineExhausted, user_error_in
from ufgvc.core.storage import Store
from ufgvc.training.checkpoint import RunCheckpoint, newest_state, read_checkpoint
from ufgvc.training.preflight import choose_training_device, worker_resources
from ufgvc.training.settings import TrainSettings, WorkerConfig
from ufgvc.training.worker import Worker

# A lost node breaks the other workers' connections at once; Ray notices it only after five failed checks, 3 s apart.
NODE_LOSS_SECONDS = 60.0
IDLE = 4  # NodeDeathInfo.AUTOSCALER_DRAIN_IDLE: an autoscaler removed an unused node


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
    return TorchTrainer(
        worker,
        train_loop_config=config,
        torch_config=NodeNetworkConfig(backend="nccl" if device == "cuda" else "gloo"),
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


class StopOnUserError(UserCallback):
    """Stops a run at a worker's first UserError, by raising it in Ray Train's controller: a restart would only repeat
    it.

    Also excludes failures caused by the loss of a node (a spot machine, a hardware failure) from `max_failures`; Ray
    itself excludes only nodes whose end was announced. All other failures count.
    checkpoints: folder to name in errors about its disk, because Ray Train copies checkpoints in the background and its
    error names no file.  lost: `lost_nodes` before the run.  noticed_seconds: how long to wait for Ray to notice a
    loss.
    """

    def __init__(
        self,
        checkpoints: str | None = None,
        lost: frozenset[str] = frozenset(),
        noticed_seconds: float = NODE_LOSS_SECONDS,
    ) -> None:
        self.checkpoints, self.lost, self.noticed_seconds = checkpoints, lost, noticed_seconds

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        """Called by Ray Train when workers failed: a UserError ends the run, other errors restart the workers."""
        for error in worker_exceptions.values():
            user_error = user_error_in(error, self.checkpoints)
            if user_error is not None and not isinstance(user_error, MachineExhausted):
                raise user_error
        if any(_was_announced(error) for error in worker_exceptions.values()):
            return  # Ray does not count it
        new = self._newly_lost()
        if new:
            self.lost |= new
            # Ray Train counts preemptions separately, without a limit.
            ranks = sorted(worker_exceptions)
            raise PreemptionError(
                PreemptionInfo(deadline_ms=None, preempted_node_to_ranks=dict.fromkeys(sorted(new), ranks))
            )

    def _newly_lost(self) -> frozenset[str]:
        """Nodes lost since the last failure. On a cluster of several nodes, waits until Ray can have noticed a loss."""
        deadline = time.monotonic() + self.noticed_seconds
        while True:
            nodes = ray.nodes()
            new = lost_nodes(nodes) - self.lost
            if new or sum(node["Alive"] for node in nodes) < 2 or time.monotonic() > deadline:
                return new
            time.sleep(0.5)


def lost_nodes(nodes: list[dict[str, Any]]) -> frozenset[str]:
    """Ids of the dead nodes, except idle ones that an autoscaler removed.  nodes: of `ray.nodes()`."""
    return frozenset(node["NodeID"] for node in nodes if not node["Alive"] and node.get("DeathReason") != IDLE)


def _was_announced(error: Exception) -> bool:
    """Whether a worker was lost with a node whose end was announced to Ray (drained)."""
    return bool(getattr(getattr(error, "health_check_failure", error), "preempted", False))


def interface_of(address: str) -> str | None:
    """Name of this machine's network interface with the IP address; None if there is none."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == address for each in addresses):
            return str(name)
    return None


def bind_gloo_to_ray_interface() -> None:
    """Binds gloo to the interface by which Ray's nodes know this one, unless GLOO_SOCKET_IFNAME is set.

    By default gloo binds to the address of the host's name, which on Debian and Ubuntu is 127.0.1.1 and cannot be
    reached from other nodes.
    """
    interface = interface_of(ray.util.get_node_ip_address())
    if interface:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)


class NodeNetworkConfig(TorchConfig):
    """TorchConfig that calls `bind_gloo_to_ray_interface` on each worker before it sets up the process group."""

    @property
    def backend_cls(self) -> Any:
        """The class that Ray Train sets up on the workers."""
        return _NodeNetworkBackend


class _NodeNetworkBackend(TorchConfig().backend_cls):  # type: ignore[misc]  # Ray exposes the class only in its config
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(bind_gloo_to_ray_interface)
        super().on_start(worker_group, backend_config)

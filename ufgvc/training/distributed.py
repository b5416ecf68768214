"""The one place that builds a TorchTrainer: for a training, and for a trial of several workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ufgvc.core.storage import Store
from ufgvc.training.preflight import choose_training_device, worker_resources
from ufgvc.training.settings import TrainSettings


def make_trainer(
    worker: Callable[[dict[str, Any]], Any],
    config: dict[str, Any],
    settings: TrainSettings,
    store: Store,
    name: str,
    keep: int | None,
) -> Any:
    """A TorchTrainer that runs `worker(config)` on every rank and keeps its state in <store>/<name>. Inside of a Ray session.

    keep: checkpoints kept; None: all.  UserError where GPUs are asked for that the cluster lacks.
    """
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from ufgvc.training.failures import EndAtMistakes, lost_nodes
    from ufgvc.training.process_group import NodeNetworkConfig

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
            callbacks=[EndAtMistakes(f"{store.uri}/{name}", lost_nodes(ray.nodes()))],  # type: ignore[list-item]
        ),
    )

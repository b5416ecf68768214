"""The resources of a trial, and how many trials run at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ufgvc.core.errors import UserError
from ufgvc.core.process import cpu_count
from ufgvc.core.storage import open_store
from ufgvc.experiments.settings import TrialSettings
from ufgvc.runtime.resources import alive_nodes, choose_device, count_slots, describe_nodes, describe_resources
from ufgvc.training.preflight import (
    check_cpus,
    check_nodes_hold,
    check_places,
    choose_training_device,
    worker_resources,
)
from ufgvc.training.settings import TrainSettings

DRIVER_CPUS = 0.01  # of a trial of several workers, which reserve resources of their own


@dataclass(frozen=True)
class TrialResources:
    """What each trial gets.

    per_trial: what Ray reserves for it (CPU, GPU).  max_concurrent: trials at a time.  threads: of torch in each trial.
    """

    per_trial: dict[str, float]
    max_concurrent: int
    threads: int

    @property
    def device(self) -> str:
        """`cuda` or `cpu`."""
        return "cuda" if "GPU" in self.per_trial else "cpu"


def trial_resources(settings: TrialSettings, train: TrainSettings | None = None) -> TrialResources:
    """The resources of a trial on the cluster that is running. Inside a Ray session.

    train: of a trial that is a training of several workers.  UserError if not a single trial fits.
    """
    nodes = alive_nodes()
    # A session on one machine may have more slots than cores. Of several nodes only the slots are known.
    cores = cpu_count() if len(nodes) < 2 else max(1, int(total(nodes, "CPU")))
    if train is None or train.workers == 1:
        return size_trials(settings, nodes, cores)
    return size_distributed_trials(train, settings.max_concurrent_trials, nodes, cores)


def size_trials(settings: TrialSettings, nodes: Sequence[Mapping[str, float]], cores: int) -> TrialResources:
    """The resources of a trial in one process. One CPU slot is left for Ray Data. UserError if not a single trial fits.

    nodes: the resources of each node.  cores: CPU cores of the cluster.
    """
    cpus, gpus = total(nodes, "CPU"), total(nodes, "GPU")
    use_gpu = choose_device(settings.device, gpus, settings.gpu_per_trial) == "cuda"
    per_trial = {"CPU": settings.cpus_per_trial} | ({"GPU": settings.gpu_per_trial} if use_gpu else {})
    fitting = int((cpus - 1) // settings.cpus_per_trial)
    if fitting < 1:
        raise UserError(
            f"a trial of {settings.cpus_per_trial:g} CPUs leaves none of the {cpus:g} for Ray Data",
            where="--cpus-per-trial",
            fix="use a smaller share, or more CPUs (`--ray.cpus` for a local session)",
        )
    on_nodes = count_slots(nodes, per_trial)
    if on_nodes < 1:
        raise UserError(
            f"no node has the {describe_resources(per_trial)} of a trial (nodes: {describe_nodes(nodes, per_trial)})",
            where="--cpus-per-trial",
            fix="use smaller shares (`--cpus-per-trial`, `--gpu-per-trial`), or larger nodes",
        )
    fitting = min(fitting, int(gpus / settings.gpu_per_trial)) if use_gpu else fitting
    concurrent = min(settings.max_concurrent_trials or (fitting if use_gpu else min(fitting, cores)), fitting)
    # The threads are those of the trials that were planned, also where the nodes hold fewer of them.
    return TrialResources(per_trial, min(concurrent, on_nodes), max(1, cores // concurrent))


def size_distributed_trials(
    train: TrainSettings, max_concurrent: int | None, nodes: Sequence[Mapping[str, float]], cores: int
) -> TrialResources:
    """The resources of a trial of several workers, each of which reserves its own.

    UserError if not a single trial fits.  nodes: the resources of each node.  cores: CPU cores of the cluster.
    """
    cpus, gpus = total(nodes, "CPU"), total(nodes, "GPU")
    check_cpus(train, cpus)
    device = choose_training_device(train, gpus)
    check_nodes_hold(train, device, nodes)
    fitting = int((cpus - 1) // (train.workers * train.cpus_per_worker))
    fitting = min(fitting, count_slots(nodes, worker_resources(train, device)) // train.workers)
    return TrialResources({"CPU": DRIVER_CPUS}, max(1, min(max_concurrent or fitting, fitting)), cores)


def check_shared_storage(data: Sequence[str], runs: str, init: str) -> None:
    """UserError for a local path where trials may run on other nodes. Inside a Ray session."""
    count = len(alive_nodes())
    for uri in data:
        check_places({"--data": open_store(uri).uri, "--runs": open_store(runs).uri}, count)
    if init not in ("imagenet", "none"):
        check_places({"--init": init}, count)


def total(nodes: Sequence[Mapping[str, float]], name: str) -> float:
    """The sum of one resource over all nodes."""
    return sum(node.get(name, 0) for node in nodes)

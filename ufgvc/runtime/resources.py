"""CPUs and GPUs: what the cluster has, which device a step computes on, and how large its actor pool is."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from ufgvc.core.config import Settings
from ufgvc.core.errors import UserError

log = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "gpu"]  # what a user may ask for; auto: a GPU if there is one
TorchDevice = Literal["cpu", "cuda"]


def choose_device(
    device: Device, gpus: float | None = None, needed: float = 1, where: str = "--device", fix: str | None = None
) -> TorchDevice:
    """The name that torch has for the device to compute on. UserError for fewer GPUs than needed.

    gpus: how many there are; default: those that torch sees in this process.  needed: how many it takes; with `auto`
    this counts only if there is a GPU at all.  where, fix: of the error.
    """
    owner = "the cluster has"
    if gpus is None:
        import torch

        owner, gpus = "torch sees", torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cpu" or (device == "auto" and gpus < 1):
        return "cpu"
    if gpus < needed:
        what = f"{owner} {gpus:g} of {math.ceil(needed)} GPUs" if gpus else f"{owner} no GPU"
        raise UserError(what, where=where, fix=fix or f"use `{where} auto` or `{where} cpu`")
    return "cuda"


class ActorSettings(Settings):
    """Settings of an actor pool: processes that each hold a model."""

    min_actors: int = Field(1, ge=1)
    """actors (processes that each hold the model) at the start"""
    max_actors: int | None = Field(None, ge=1)
    """actors at most; default: one a GPU, or as many as the CPU slots allow with one left for Ray Data"""
    cpus_per_actor: int = Field(1, ge=1)
    """CPU slots of each actor"""
    device: Device = "auto"
    """cpu, gpu (one for each actor), or auto: GPUs if there are any"""

    @property
    def has_default_size(self) -> bool:
        """Whether nothing asks for a pool of a certain size, so that few tasks may do without one."""
        return self.min_actors == 1 and self.max_actors is None

    @property
    def gpus_to_wait_for(self) -> int:
        """GPUs without which the pool cannot start (see `ray_session`)."""
        return self.min_actors if self.device == "gpu" else 0


@dataclass(frozen=True)
class ActorPool:
    """device: of each actor.  max_actors: actors at most.  options: keyword arguments for `map` and `map_batches` of a
    Ray Dataset.
    """

    device: TorchDevice
    max_actors: int
    options: dict[str, Any]


def actor_pool(settings: ActorSettings, tasks: int, *, can_use_gpu: bool = True) -> ActorPool:
    """Sizes the pool for this number of tasks. Inside of a Ray session.

    can_use_gpu: False where the code could not make use of one.  UserError if no node has room for an actor.
    """
    import ray
    from ray.data import ActorPoolStrategy

    resources = ray.cluster_resources()
    gpus = resources.get("GPU", 0) if can_use_gpu else 0
    device = choose_device(settings.device, gpus)
    each = {"CPU": float(settings.cpus_per_actor)} | ({"GPU": 1.0} if device == "cuda" else {})
    nodes = alive_nodes()
    room = count_slots(nodes, each)
    if room < 1:
        what = (
            f"no node has the {describe_resources(each)} that each actor needs (nodes: {describe_nodes(nodes, each)})"
        )
        fix = "lower it, or add larger nodes" + (", or use `--device cpu`" if device == "cuda" else "")
        raise UserError(what, where="--cpus-per-actor", fix=fix)
    if device == "cpu":  # Ray Data's own tasks need a slot, or the pool would wait for its input
        room = max(1, min(room, int((resources.get("CPU", 0) - 1) // settings.cpus_per_actor)))
    most = max(1, min(settings.max_actors or room, room, tasks))
    options = {
        "compute": ActorPoolStrategy(min_size=min(settings.min_actors, most), max_size=most),
        "num_cpus": settings.cpus_per_actor,
        "num_gpus": 1 if device == "cuda" else 0,
    }
    return ActorPool(device, most, options)


def wait_for_gpus(gpus: int, seconds: float) -> None:
    """Returns once the cluster has that many GPUs. Inside of a Ray session. UserError if it does not within `seconds`.

    An autoscaler starts nodes only for what is asked of Ray, so a placement group asks for them. It ends with this
    process: it cannot keep nodes alive for a job that was killed. It is removed at once, so the idle timeout of the
    nodes must last until the work begins.
    """
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    found = ray.cluster_resources().get("GPU", 0)
    if found >= gpus:
        return
    log.info("the cluster has %g of %d GPUs; waiting up to %.0f s for the rest", found, gpus, seconds)
    group = placement_group([{"GPU": 1}] * gpus)
    try:
        if group.wait(seconds):
            return
    finally:
        remove_placement_group(group)
    found = ray.cluster_resources().get("GPU", 0)
    raise UserError(
        f"the cluster has {found:g} of {gpus} GPUs after {seconds:.0f} s",
        where="device gpu",
        fix="use `auto` or `cpu`, fewer of them, or another cluster (`--ray.address`, `--ray.gpu-timeout`)",
    )


def alive_nodes() -> list[dict[str, float]]:
    """The resources of each node that is alive now (CPU, GPU, memory, ...). Inside of a Ray session.

    Ray does not say what an autoscaler could still add; `wait_for_gpus` has it add them first.
    """
    import ray

    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def count_slots(nodes: Sequence[Mapping[str, float]], each: Mapping[str, float]) -> int:
    """How many processes that need the resources `each` fit on the nodes at a time. A process never spans two nodes."""
    needs = {name: need for name, need in each.items() if need > 0}
    return sum(min((int(node.get(name, 0) / need + 1e-9) for name, need in needs.items()), default=0) for node in nodes)


def describe_resources(each: Mapping[str, float]) -> str:
    """For a message: `4 CPU and 1 GPU`."""
    return " and ".join(f"{need:g} {name}" for name, need in each.items())


def describe_nodes(nodes: Sequence[Mapping[str, float]], names: Iterable[str]) -> str:
    """The resources of the nodes, for a message: `2 x 4 CPU + 1 GPU, 1 x 8 CPU + 0 GPU`."""
    kinds = Counter(" + ".join(f"{node.get(name, 0):g} {name}" for name in names) for node in nodes)
    return ", ".join(f"{count} x {kind}" for kind, count in sorted(kinds.items())) or "none"

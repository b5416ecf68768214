"""What Ray Train's controller runs: how workers are connected, and what happens when one fails. It is a process of its
own, on which all workers wait, so it imports neither torch nor what trains.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

import psutil
import ray
import ray.util
from ray.exceptions import GetTimeoutError
from ray.train import PreemptionError, PreemptionInfo, UserCallback
from ray.train.backend import Backend, BackendConfig

from ufgvc.core.errors import MachineExhausted, user_error_in

# A lost node breaks the other workers' connections at once; Ray notices it only after five failed checks, 3 s apart.
NODE_LOSS_SECONDS = 60.0
IDLE = 4  # NodeDeathInfo.AUTOSCALER_DRAIN_IDLE: an autoscaler removed an unused node
COLLECTIVE_SECONDS = 1800.0  # after which a collective operation fails that not all ranks have joined
LEAVE_SECONDS = 30.0  # that the ranks may take to disconnect before they are ended


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


class ProcessGroupConfig(BackendConfig):
    """Connects the workers by torch.distributed.  backend: gloo or nccl.

    Like Ray's TorchConfig, which imports torch in the controller too. It also calls `bind_gloo_to_ray_interface`.
    """

    def __init__(self, backend: str) -> None:
        self.backend = backend

    @property
    def backend_cls(self) -> Any:
        """The class by which the controller connects the workers."""
        return _ProcessGroup

    @property
    def train_func_context(self) -> Any:
        """What the training function of each worker runs in."""
        from ray.train.torch import TorchConfig

        return TorchConfig().train_func_context


class _ProcessGroup(Backend):
    share_cuda_visible_devices = True  # of the workers of a node, for NCCL

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        address, ranks = worker_group.execute_single(0, free_address), len(worker_group)
        joining = (join_process_group, backend_config.backend, address, ranks)
        ray.get([worker_group.execute_single_async(rank, *joining, rank) for rank in range(ranks)])

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        with contextlib.suppress(GetTimeoutError):  # a rank may hang in a collective operation
            ray.get(worker_group.execute_async(leave_process_group), timeout=LEAVE_SECONDS)


def free_address() -> str:
    """A URL at which rank 0 can wait for the others."""
    host = ray.util.get_node_ip_address()
    is_v6 = ":" in host
    with socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET) as trial:
        trial.bind(("", 0))
        port = trial.getsockname()[1]
    return f"tcp://[{host}]:{port}" if is_v6 else f"tcp://{host}:{port}"


def join_process_group(backend: str, address: str, ranks: int, rank: int) -> None:
    """Connects this worker with the others, which must join at the same time."""
    import torch.distributed

    bind_gloo_to_ray_interface()
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")  # a rank ends when NCCL fails, as with Ray's own
    timeout = datetime.timedelta(seconds=COLLECTIVE_SECONDS)
    torch.distributed.init_process_group(backend, address, timeout=timeout, world_size=ranks, rank=rank)


def leave_process_group() -> None:
    """Disconnects this worker."""
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def skip(*_: Any) -> None:
    """Does nothing."""

"""The process group of training workers on several nodes: which of a node's networks it talks over."""

from __future__ import annotations

import os
from typing import Any

import psutil
import ray.util
from ray.train.torch import TorchConfig


def interface_of(address: str) -> str | None:
    """The network interface of this machine that has the IP address; None if none has it."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == address for each in addresses):
            return str(name)
    return None


def talk_where_ray_talks() -> None:
    """Binds gloo to the interface by which Ray's nodes know this one, unless the user named one.

    Left alone it binds to what the host's own name stands for, which on Debian and Ubuntu is 127.0.1.1: no other node can reach that.
    """
    interface = interface_of(ray.util.get_node_ip_address())
    if interface:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)


class NodeNetworkConfig(TorchConfig):
    """Ray's own set-up of torch's process group, after `talk_where_ray_talks` on every worker."""

    @property
    def backend_cls(self) -> Any:
        return _NodeNetworkBackend


class _NodeNetworkBackend(TorchConfig().backend_cls):  # type: ignore[misc]  # Ray's class is known by its configuration only
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(talk_where_ray_talks)
        super().on_start(worker_group, backend_config)

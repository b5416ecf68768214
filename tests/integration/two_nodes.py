"""A Ray cluster of several nodes on one machine, with an S3 server that all of them reach, and commands run on it as
users run them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.integration.machines import Machine, Machines, answers, machines, wait_for
from tests.integration.s3_servers import KEY, SECRET

ROOT = Path(__file__).resolve().parents[2]
AGENTS = ("dashboard-agent-grpc", "dashboard-agent-listen", "runtime-env-agent", "metrics-export")
PATIENT = 900  # seconds that starting a process may take on a machine that others use


class Cluster:
    """The first node is the head, and commands run there. What a node says is in <node's name>.log."""

    def __init__(self, place: Machines, folder: Path, free_port: Callable[[], int]) -> None:
        self.place, self.folder, self.free_port = place, folder, free_port
        self.port, s3_port = free_port(), free_port()
        self.nodes: list[Machine] = []
        self._made = 0
        self.s3_url = f"http://{place.hub.address}:{s3_port}"
        server = [
            sys.executable,
            "-c",
            "from moto.server import main; main()",
            "-H",
            place.hub.address,
            "-p",
            str(s3_port),
        ]
        place.run(place.hub, server, self._environment(place.hub), folder / "s3.log")
        wait_for(lambda: answers(place.hub.address, s3_port), "the S3 server", PATIENT)
        self.token = secrets.token_hex(32)

    @property
    def address(self) -> str:
        return f"{self.nodes[0].address}:{self.port}"

    def add(self, cpus: int) -> Machine:
        """A node that has joined.

        Ray gives its raylet half a minute to start, which on a busy machine may take three tries.
        """
        for _ in range(2):
            with contextlib.suppress(AssertionError):
                return self._add(cpus)
        return self._add(cpus)

    def _add(self, cpus: int) -> Machine:
        self._made += 1
        node = self.place.add(f"node{self._made}")
        join = (
            ["--address", self.address]
            if self.nodes
            else ["--head", "--port", str(self.port), "--include-dashboard", "false"]
        )
        limits = ["--num-cpus", str(cpus), "--object-store-memory", str(150 << 20), "--node-ip-address", node.address]
        # With ports of our choice the raylet does not wait (15 s at most) until its agents tell it theirs.
        ports = [text for name in AGENTS for text in (f"--{name}-port", str(self.free_port()))]
        starting = [str(Path(sys.executable).with_name("ray")), "start", *join, *limits, *ports, "--block"]
        ray = self.run(node, starting, node.name)
        self.nodes.append(node)

        def started() -> bool:
            said = self.said(node.name)
            failed = ray.poll() is not None or "timed out during startup" in said
            assert not failed, said
            return "Ray runtime started" in said

        try:
            wait_for(started, f"{node.name} in the cluster", PATIENT)
        except AssertionError:
            self.lose(node)
            raise
        return node

    def job(self, name: str, *arguments: str, on: Machine | None = None) -> subprocess.Popen[Any]:
        """`python -m jobs.<name> --ray.address ...` on a node, by default the head; what it says goes to <name>.log."""
        command = [sys.executable, "-m", f"jobs.{name}", *arguments, "--ray.address", self.address]
        return self.run(on or self.nodes[0], command, name)

    def lose(self, node: Machine) -> None:
        self.nodes.remove(node)
        self.place.lose(node)

    def said(self, name: str) -> str:
        """What a job or a node has printed so far."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def done(self, name: str, *arguments: str) -> str:
        """Runs a job to its end and returns what it said. AssertionError if it failed."""
        code = self.job(name, *arguments).wait(PATIENT)
        assert code == 0, self.said(name)
        return self.said(name)

    def run(self, node: Machine, command: list[str], log: str) -> subprocess.Popen[Any]:
        environment = self._environment(node) | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}
        return self.place.run(node, command, environment, self.folder / f"{log}.log")

    def _environment(self, machine: Machine) -> dict[str, str]:
        """Nothing of the tester's own settings: a node knows what its administrator told it."""
        return {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "HOME": machine.own_tmp,
            "TMPDIR": machine.own_tmp,
            "AWS_ENDPOINT_URL": self.s3_url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "OMP_NUM_THREADS": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_raylet_start_wait_time_s": "120",
        }


@contextlib.contextmanager
def cluster(folder: Path, free_port: Callable[[], int]) -> Iterator[Cluster]:
    """No node yet. All of it is gone after the block; the logs stay in the folder."""
    with machines(folder / "machines") as place:
        print(f"nodes are {place.kind}")
        yield Cluster(place, folder, free_port)

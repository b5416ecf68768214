"""Starts the servers of a local stack, one after the other: in parallel each would delay the others, and Ray has
deadlines.
"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shlex
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from cluster.node import LOOPBACK, NO_CLUSTERS
from cluster.stack import Server, Stack, start_process, write_private
from ufgvc.core.config import Settings
from ufgvc.core.errors import UserError

TIMEOUT = 240.0  # seconds that a server may take to answer: on a busy machine MLflow took 90
RAY_TRIES = 3  # a raylet gives its own agents 15 s, which cannot be changed, and ends when a busy machine needs more
RAY_START = 60  # seconds after which `ray start` gives up on a raylet
AGENT_PORTS = (
    "--dashboard-agent-listen-port",
    "--dashboard-agent-grpc-port",
    "--metrics-export-port",
    "--runtime-env-agent-port",
)


class StackSettings(Settings):
    """The flags of `up`, which explains them."""

    nodes: int
    cpus: int
    s3: str | None
    bucket: str
    mlflow_store: str | None
    object_store_mb: int


def launch(folder: Path, settings: StackSettings) -> Stack:
    """Starts a stack and waits until all of it answers. UserError with the log to read if it does not; then nothing
    keeps running.
    """
    if settings.s3 is None and find_spec("moto") is None:
        raise UserError(
            "moto, the S3 server, is not installed",
            fix="install 'moto[server]', or give the URL of a running server as `--s3`",
        )
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    s3, mlflow, gcs, dashboard = (f"{LOOPBACK}:{port}" for port in free_ports(4))
    stack = Stack(
        folder=folder,
        mark=secrets.token_hex(16),
        session=Path(tempfile.mkdtemp(prefix="ufgvc-stack-", dir="/tmp")),  # the path of a socket may have 107 bytes
        bucket=settings.bucket,
        gcs=gcs,
        dashboard=f"http://{dashboard}",
        nodes=settings.nodes + 1,
    )
    stack.write()
    write_private(stack.token, secrets.token_hex(32))
    exports = make_exports(stack, settings.s3 or f"http://{s3}", f"http://{mlflow}", with_keys=settings.s3 is None)
    launcher = Launcher(stack, settings, exports)
    try:
        launcher.start_s3()
        for number in range(settings.nodes + 1):
            launcher.start_ray(number)
        launcher.start_mlflow()
        lines = (f"export {name}={shlex.quote(value)}\n" for name, value in exports.items())
        write_private(stack.exports, "".join(lines))
    except BaseException:
        launcher.stack.end(keep_logs=True)
        raise
    return launcher.stack


def make_exports(stack: Stack, s3: str, mlflow: str, with_keys: bool) -> dict[str, str]:
    """The variables that a shell needs to use the stack.  with_keys: False for an S3 server with keys of its own."""
    keys = {
        "AWS_ACCESS_KEY_ID": "ufgvc-stack",
        "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16),
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    return {
        "RAY_API_SERVER_ADDRESS": stack.dashboard,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(stack.token),
        NO_CLUSTERS: "0",
        "MLFLOW_TRACKING_URI": mlflow,
        "AWS_ENDPOINT_URL": s3,
    } | (keys if with_keys else {})


_GIVEN: set[int] = set()  # ports that `free_ports` has returned


class Launcher:
    """Starts one server after the other.  stack: with the servers that have been started so far."""

    def __init__(self, stack: Stack, settings: StackSettings, exports: dict[str, str]) -> None:
        self.stack, self.settings, self.exports = stack, settings, exports
        foreign = ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "AWS_ENDPOINT_URL_S3")
        own = {name: value for name, value in os.environ.items() if name not in foreign}
        # Jobs and servers find `python` and the programs next to it, as in an activated environment.
        own["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{own.get('PATH', os.defpath)}"
        self.environment = own | exports

    def start_s3(self) -> None:
        """Starts the S3 server, creates the bucket, and waits until it answers."""
        url = self.exports["AWS_ENDPOINT_URL"]
        if self.settings.s3 is not None:
            self.stack = self.stack.with_server(Server(name="s3", pid=None, url=url, log=None))
        else:
            server = "from moto.server import main; main()"
            self._start("s3", ["-c", server, "-H", LOOPBACK, "-p", _port(url)], {}, url, self._answers)
        _make_bucket(self.exports, self.settings.bucket)

    def start_mlflow(self) -> None:
        """Starts the MLflow server, and waits until it answers."""
        url = self.exports["MLFLOW_TRACKING_URI"]
        flags = ["--host", LOOPBACK, "--port", _port(url), "--workers", "1"]
        flags += ["--artifacts-destination", f"s3://{self.settings.bucket}/mlflow"]
        database = self.settings.mlflow_store or f"sqlite:///{self.stack.folder / 'mlflow.db'}"
        environment = {
            "MLFLOW_BACKEND_STORE_URI": database,  # may hold a password, which everybody could read in a command
            "MLFLOW_S3_ENDPOINT_URL": self.exports["AWS_ENDPOINT_URL"],
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        self._start("mlflow", ["-m", "mlflow", "server", *flags], environment, url, self._answers)

    def start_ray(self, number: int) -> None:
        """Starts the head (number 0) or a worker node."""
        environment = {
            "RAY_raylet_start_wait_time_s": str(RAY_START),
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            "RAY_JOB_STOP_WAIT_TIME_S": "30",  # the default of 3 is too short to close a run
            "RAY_USAGE_STATS_ENABLED": "0",
            # The head keeps 4 KB of each of the last 100,000 tasks by default; the dashboard lists 10,000 at most.
            "RAY_task_events_max_num_task_in_gcs": "10000",
            "RAY_worker_niceness": "0",
        }
        if number == 0:
            client, autoscaler, metrics = map(str, free_ports(3))
            command = ["-m", "ray.scripts.scripts", "start", "--head", "--port", _port(self.stack.gcs)]
            command += ["--ray-client-server-port", client, "--include-dashboard", "true"]
            command += ["--dashboard-host", LOOPBACK, "--dashboard-port", _port(self.stack.dashboard)]
            environment |= {"AUTOSCALER_METRIC_PORT": autoscaler, "DASHBOARD_METRIC_PORT": metrics}
        else:
            node = str(Path(__file__).with_name("node.py"))
            # The machine's GPUs belong to the head.
            command = ["-P", node, "start", "--address", self.stack.gcs, "--num-gpus", "0"]
        ports = zip(AGENT_PORTS, map(str, free_ports(len(AGENT_PORTS))), strict=True)
        command += ["--block", *(text for pair in ports for text in pair)]
        command += ["--node-ip-address", LOOPBACK, "--min-worker-port", "0", "--max-worker-port", "0"]
        # Each node unpacks a job's code for itself: in a shared folder the second would remove it while the first one
        # runs it.
        command += ["--temp-dir", str(self.stack.session / str(number)), "--num-cpus", str(self.settings.cpus)]
        command += ["--object-store-memory", str(self.settings.object_store_mb << 20)]
        name, url = ("ray head", self.stack.dashboard) if number == 0 else (f"ray node {number}", None)
        ready = lambda server: self.stack.count_alive_nodes() == 1 + number  # noqa: E731
        self._start(name, command, environment, url, ready, tries=RAY_TRIES)

    def _answers(self, server: Server) -> bool:
        return server.url is not None and self.stack.request(server.url) is not None

    def _start(
        self,
        name: str,
        arguments: list[str],
        environment: dict[str, str],
        url: str | None,
        ready: Callable[[Server], bool],
        tries: int = 1,
    ) -> None:
        """Runs Python with these arguments and waits until the server is ready. UserError if it ends at every try, or
        takes too long.
        """
        log = self.stack.folder / "logs" / f"{name.replace(' ', '-')}.log"
        for _ in range(tries):
            deadline = time.monotonic() + TIMEOUT
            command = [sys.executable, *arguments]
            process = start_process(command, self.environment | environment, self.stack.mark, log)
            server = Server(name=name, pid=process.pid, url=url, log=log)
            self.stack = self.stack.with_server(server)
            while process.poll() is None:
                if ready(server):
                    return
                if time.monotonic() > deadline:
                    raise _did_not_start(server, f"did not answer within {TIMEOUT:.0f} s")
                time.sleep(0.3)
        raise _did_not_start(server, "ended before it answered")


def free_ports(number: int) -> list[int]:
    """Different ports of loopback on which nothing listens now, and that were not given before: their servers may not
    have begun to listen.

    They lie between Ray's worker ports and those that the system hands out, so that neither takes one before its server
    does.
    """
    with contextlib.ExitStack() as probes:
        ports: list[int] = []
        while len(ports) < number:
            probe, port = probes.enter_context(socket.socket()), random.randrange(20_000, 32_000)
            if port in _GIVEN:
                continue
            with contextlib.suppress(OSError):
                probe.bind((LOOPBACK, port))
                ports.append(port)
    _GIVEN.update(ports)
    return ports


def _port(address: str) -> str:
    return address.rpartition(":")[2]


def _did_not_start(server: Server, what: str) -> UserError:
    lines = server.log.read_text(encoding="utf-8", errors="replace").split("\n") if server.log else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    fix = "read that file, and for Ray also the folder `ray/` next to it; nothing of the stack keeps running"
    return UserError(f"{server.name} {what}{f': {last}' if last else ''}", where=str(server.log), fix=fix)


def _make_bucket(exports: dict[str, str], bucket: str) -> None:
    """Makes the bucket unless it exists. UserError of our storage for a server that fails or keys that it refuses."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    from ufgvc.core.storage import open_store

    os.environ.pop("AWS_ENDPOINT_URL_S3", None)  # it would take precedence over AWS_ENDPOINT_URL
    os.environ.update({name: value for name, value in exports.items() if name.startswith("AWS_")})
    with contextlib.suppress(BotoCoreError, ClientError):  # the bucket exists, or the next line says what is wrong
        boto3.client("s3", endpoint_url=exports["AWS_ENDPOINT_URL"]).create_bucket(Bucket=bucket)
    open_store(f"s3://{bucket}").list("mlflow")

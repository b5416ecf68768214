"""How a stack's parts are started: S3, then MLflow and Ray's head beside each other, then Ray's worker nodes."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from cluster.node import LOOPBACK, NO_CLUSTERS
from cluster.processes import alive, free_ports, last_line, start
from cluster.stack import Part, Stack, write_private
from ufgvc.core.config import Section
from ufgvc.core.errors import UserError

WITHIN = 240.0  # seconds that a part may take to answer: on a busy machine MLflow took 90


class Wish(Section):
    """What `up` was told; its flags explain it."""

    nodes: int
    cpus: int
    s3: str | None
    bucket: str
    mlflow_store: str | None
    object_store_mb: int


def launch(folder: Path, wish: Wish) -> Stack:
    """Starts a stack and waits until all of it answers. UserError with the log to read where it does not; then nothing is left running."""
    if wish.s3 is None and find_spec("moto") is None:
        raise UserError("moto, the S3 server, is not installed", fix="install 'moto[server]', or give `--s3 URL` of a server that is there")
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    s3, mlflow, gcs, dashboard = (f"{LOOPBACK}:{port}" for port in free_ports(4))
    stack = Stack(
        folder=folder,
        mark=secrets.token_hex(16),
        session=Path(tempfile.mkdtemp(prefix="ufgvc-stack-", dir="/tmp")),  # the path of a socket may have 107 bytes
        bucket=wish.bucket,
        gcs=gcs,
        dashboard=f"http://{dashboard}",
        nodes=wish.nodes + 1,
    )
    stack.write()
    write_private(stack.token, secrets.token_hex(32))
    exports = _exports(stack, wish.s3 or f"http://{s3}", f"http://{mlflow}", made_up_keys=wish.s3 is None)
    launcher = _Launcher(stack, wish, exports)
    try:
        launcher.start_s3()
        launcher.start_mlflow()
        launcher.start_head()
        launcher.wait(lambda stack: all(stack.answering().values()) and stack.nodes_alive() == 1)
        for number in range(wish.nodes):
            launcher.start_node(number + 1)
        launcher.wait(lambda stack: stack.nodes_alive() == stack.nodes)
        write_private(stack.exports, "".join(f"export {name}={shlex.quote(value)}\n" for name, value in exports.items()))
    except BaseException:
        launcher.stack.end(keep_logs=True)
        raise
    return launcher.stack


def _exports(stack: Stack, s3: str, mlflow: str, made_up_keys: bool) -> dict[str, str]:
    """What a shell needs to use the stack. Keys of a server that is somebody else's are theirs to keep."""
    keys = {"AWS_ACCESS_KEY_ID": "ufgvc-stack", "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16), "AWS_DEFAULT_REGION": "us-east-1"}
    return {
        "RAY_API_SERVER_ADDRESS": stack.dashboard,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(stack.token),
        NO_CLUSTERS: "0",
        "MLFLOW_TRACKING_URI": mlflow,
        "AWS_ENDPOINT_URL": s3,
    } | (keys if made_up_keys else {})


class _Launcher:
    """Starts one part after the other.  stack: with what has been started so far."""

    def __init__(self, stack: Stack, wish: Wish, exports: dict[str, str]) -> None:
        self.stack, self.wish, self.exports = stack, wish, exports
        own = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "AWS_ENDPOINT_URL_S3")}
        # Jobs and servers find `python` and what lies beside it, as in an activated environment.
        own["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{own.get('PATH', os.defpath)}"
        self.environment = own | exports

    def start_s3(self) -> None:
        url = self.exports["AWS_ENDPOINT_URL"]
        if self.wish.s3 is not None:
            self.stack = self.stack.started(Part(name="s3", pid=None, url=url, log=None))
        else:
            command = [sys.executable, "-c", "from moto.server import main; main()", "-H", LOOPBACK, "-p", url.rpartition(":")[2]]
            self._start("s3", command, {}, url)
            self.wait(lambda stack: all(stack.answering().values()))
        _make_bucket(self.exports, self.wish.bucket)

    def start_mlflow(self) -> None:
        url = self.exports["MLFLOW_TRACKING_URI"]
        store = self.wish.mlflow_store or f"sqlite:///{self.stack.folder / 'mlflow.db'}"
        artifacts = ["--artifacts-destination", f"s3://{self.wish.bucket}/mlflow"]
        command = [sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", url.rpartition(":")[2], "--workers", "1"]
        settings = {
            "MLFLOW_BACKEND_STORE_URI": store,  # may hold a password, which everybody could read in a command
            "MLFLOW_S3_ENDPOINT_URL": self.exports["AWS_ENDPOINT_URL"],
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        self._start("mlflow", [*command, *artifacts], settings, url)

    def start_head(self) -> None:
        client, autoscaler, metrics = free_ports(3)
        port, dashboard = (address.rpartition(":")[2] for address in (self.stack.gcs, self.stack.dashboard))
        command = ["--head", "--port", port, "--temp-dir", str(self.stack.session), "--ray-client-server-port", str(client),
                   "--include-dashboard", "true", "--dashboard-host", LOOPBACK, "--dashboard-port", dashboard]  # fmt: skip
        settings = {"AUTOSCALER_METRIC_PORT": str(autoscaler), "DASHBOARD_METRIC_PORT": str(metrics)}
        self._start_ray("ray head", ["-m", "ray.scripts.scripts", "start", *command], settings, self.stack.dashboard)

    def start_node(self, number: int) -> None:
        script = str(Path(__file__).with_name("node.py"))
        command = ["-P", script, "start", "--address", self.stack.gcs, "--num-gpus", "0"]  # the machine's GPUs are the head's
        self._start_ray(f"ray node {number}", command, {}, None)

    def _start_ray(self, name: str, command: list[str], settings: dict[str, str], url: str | None) -> None:
        agent = ("--dashboard-agent-listen-port", "--dashboard-agent-grpc-port", "--metrics-export-port", "--runtime-env-agent-port")
        ports = [text for flag, port in zip(agent, free_ports(len(agent)), strict=True) for text in (flag, str(port))]
        size = ["--num-cpus", str(self.wish.cpus), "--object-store-memory", str(self.wish.object_store_mb << 20)]
        places = ["--node-ip-address", LOOPBACK, "--min-worker-port", "0", "--max-worker-port", "0"]
        settings = settings | {
            "RAY_raylet_start_wait_time_s": str(int(WITHIN)),
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            "RAY_JOB_STOP_WAIT_TIME_S": "30",  # Ray's own 3 are too few to close a run
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
        }
        self._start(name, [sys.executable, *command, "--block", *places, *ports, *size], settings, url)

    def _start(self, name: str, command: list[str], settings: dict[str, str], url: str | None) -> None:
        log = self.stack.folder / "logs" / f"{name.replace(' ', '-')}.log"
        pid = start(command, self.environment | settings, self.stack.mark, log)
        self.stack = self.stack.started(Part(name=name, pid=pid, url=url, log=log))

    def wait(self, ready: Callable[[Stack], bool]) -> None:
        deadline = time.monotonic() + WITHIN
        while not ready(self.stack):
            running = alive(self.stack.mark)
            for part in self.stack.parts:
                if part.pid is not None and part.pid not in running:
                    raise _did_not_start(part, "ended before it answered")
            if time.monotonic() > deadline:
                told = self.stack.answering()
                late = [part for part in self.stack.parts if not told[part.name]] or self.stack.parts[-1:]
                raise _did_not_start(late[0], f"did not answer within {WITHIN:.0f} s")
            time.sleep(0.3)


def _did_not_start(part: Part, what: str) -> UserError:
    said = last_line(part.log) if part.log else ""
    where = str(part.log or part.url)
    return UserError(
        f"{part.name} {what}{f': {said}' if said else ''}", where=where, fix="read that file; nothing of the stack is left running"
    )


def _make_bucket(exports: dict[str, str], bucket: str) -> None:
    """Makes the bucket unless it is there. UserError, in the words of our storage, for a server or keys that do not serve."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    from ufgvc.core.storage import open_store

    os.environ.update({name: value for name, value in exports.items() if name.startswith("AWS_")})
    with contextlib.suppress(BotoCoreError, ClientError):  # it is there, or the next line says what is wrong
        boto3.client("s3", endpoint_url=exports["AWS_ENDPOINT_URL"]).create_bucket(Bucket=bucket)
    open_store(f"s3://{bucket}").list("mlflow")

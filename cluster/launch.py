"""How a stack's parts are started: one after the other, because each would slow the next one's start and Ray's has deadlines."""

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
from ufgvc.core.config import Settings
from ufgvc.core.errors import UserError

WITHIN = 240.0  # seconds that a part may take to answer: on a busy machine MLflow took 90
_BELIEVED = 3  # looks, one after the other, that do not find a process before it counts as ended
RAY_TRIES = 3  # a raylet gives its own agents 15 s, which cannot be set, and ends when a busy machine needs more
RAY_START = 60  # seconds after which `ray start` gives up on a raylet
NOTHING_LEFT = "read that file, and `ray/` beside it for Ray; nothing of the stack is left running"


class Wish(Settings):
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
        raise UserError(
            "moto, the S3 server, is not installed",
            fix="install 'moto[server]', or give `--s3 URL` of a server that is there",
        )
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
        launcher.start_head()
        for number in range(1, wish.nodes + 1):
            launcher.start_node(number)
        launcher.start_mlflow()
        write_private(
            stack.exports, "".join(f"export {name}={shlex.quote(value)}\n" for name, value in exports.items())
        )
    except BaseException:
        launcher.stack.end(keep_logs=True)
        raise
    return launcher.stack


def _exports(stack: Stack, s3: str, mlflow: str, made_up_keys: bool) -> dict[str, str]:
    """What a shell needs to use the stack. Keys of a server that is somebody else's are theirs to keep."""
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
    } | (keys if made_up_keys else {})


class _Launcher:
    """Starts one part after the other.  stack: with what has been started so far."""

    def __init__(self, stack: Stack, wish: Wish, exports: dict[str, str]) -> None:
        self.stack, self.wish, self.exports = stack, wish, exports
        own = {
            name: value
            for name, value in os.environ.items()
            if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "AWS_ENDPOINT_URL_S3")
        }
        # Jobs and servers find `python` and what lies beside it, as in an activated environment.
        own["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{own.get('PATH', os.defpath)}"
        self.environment = own | exports

    def start_s3(self) -> None:
        url = self.exports["AWS_ENDPOINT_URL"]
        if self.wish.s3 is not None:
            self.stack = self.stack.started(Part(name="s3", pid=None, url=url, log=None))
        else:
            command = [
                sys.executable,
                "-c",
                "from moto.server import main; main()",
                "-H",
                LOOPBACK,
                "-p",
                url.rpartition(":")[2],
            ]
            self._start("s3", command, {}, url, self._answers)
        _make_bucket(self.exports, self.wish.bucket)

    def start_mlflow(self) -> None:
        url = self.exports["MLFLOW_TRACKING_URI"]
        store = self.wish.mlflow_store or f"sqlite:///{self.stack.folder / 'mlflow.db'}"
        artifacts = ["--artifacts-destination", f"s3://{self.wish.bucket}/mlflow"]
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            LOOPBACK,
            "--port",
            url.rpartition(":")[2],
            "--workers",
            "1",
        ]
        settings = {
            "MLFLOW_BACKEND_STORE_URI": store,  # may hold a password, which everybody could read in a command
            "MLFLOW_S3_ENDPOINT_URL": self.exports["AWS_ENDPOINT_URL"],
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        self._start("mlflow", [*command, *artifacts], settings, url, self._answers)

    def start_head(self) -> None:
        client, autoscaler, metrics = free_ports(3)
        port, dashboard = (address.rpartition(":")[2] for address in (self.stack.gcs, self.stack.dashboard))
        command = ["--head", "--port", port, "--ray-client-server-port", str(client),
                   "--include-dashboard", "true", "--dashboard-host", LOOPBACK, "--dashboard-port", dashboard]  # fmt: skip
        settings = {"AUTOSCALER_METRIC_PORT": str(autoscaler), "DASHBOARD_METRIC_PORT": str(metrics)}
        self._start_ray(
            "ray head", ["-m", "ray.scripts.scripts", "start", *command], settings, self.stack.dashboard, number=0
        )

    def start_node(self, number: int) -> None:
        script = str(Path(__file__).with_name("node.py"))
        command = [
            "-P",
            script,
            "start",
            "--address",
            self.stack.gcs,
            "--num-gpus",
            "0",
        ]  # the machine's GPUs are the head's
        self._start_ray(f"ray node {number}", command, {}, None, number)

    def _start_ray(self, name: str, command: list[str], settings: dict[str, str], url: str | None, number: int) -> None:
        agent = (
            "--dashboard-agent-listen-port",
            "--dashboard-agent-grpc-port",
            "--metrics-export-port",
            "--runtime-env-agent-port",
        )
        ports = [text for flag, port in zip(agent, free_ports(len(agent)), strict=True) for text in (flag, str(port))]
        size = ["--num-cpus", str(self.wish.cpus), "--object-store-memory", str(self.wish.object_store_mb << 20)]
        # Nodes unpack a job's code each for itself: in one folder the second would remove it under the first one's feet.
        places = ["--temp-dir", str(self.stack.session / str(number)), "--node-ip-address", LOOPBACK,
                  "--min-worker-port", "0", "--max-worker-port", "0"]  # fmt: skip
        settings = settings | {
            "RAY_raylet_start_wait_time_s": str(RAY_START),
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            "RAY_JOB_STOP_WAIT_TIME_S": "30",  # Ray's own 3 are too few to close a run
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
        }
        whole = [sys.executable, *command, "--block", *places, *ports, *size]
        self._start(name, whole, settings, url, lambda part: self.stack.nodes_alive() == 1 + number, tries=RAY_TRIES)

    def _answers(self, part: Part) -> bool:
        return part.url is not None and self.stack.ask(part.url) is not None

    def _start(
        self,
        name: str,
        command: list[str],
        settings: dict[str, str],
        url: str | None,
        ready: Callable[[Part], bool],
        tries: int = 1,
    ) -> None:
        """Starts a server and waits until it is ready. UserError if it ends before, every time it is tried, or takes too long."""
        log = self.stack.folder / "logs" / f"{name.replace(' ', '-')}.log"
        for _ in range(tries):
            deadline = time.monotonic() + WITHIN
            part = Part(
                name=name, pid=start(command, self.environment | settings, self.stack.mark, log), url=url, log=log
            )
            self.stack = self.stack.started(part)
            missed = 0  # a busy machine's list of processes has been seen without one that ran: once is not believed
            while missed < _BELIEVED:
                missed = 0 if part.pid in alive(self.stack.mark) else missed + 1
                if not missed and ready(part):
                    return
                if time.monotonic() > deadline:
                    raise _did_not_start(part, f"did not answer within {WITHIN:.0f} s")
                time.sleep(0.3)
        raise _did_not_start(part, "ended before it answered")


def _did_not_start(part: Part, what: str) -> UserError:
    said = last_line(part.log) if part.log else ""
    return UserError(f"{part.name} {what}{f': {said}' if said else ''}", where=str(part.log), fix=NOTHING_LEFT)


def _make_bucket(exports: dict[str, str], bucket: str) -> None:
    """Makes the bucket unless it is there. UserError, in the words of our storage, for a server or keys that do not serve."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    from ufgvc.core.storage import open_store

    os.environ.pop("AWS_ENDPOINT_URL_S3", None)  # would beat the one that is meant
    os.environ.update({name: value for name, value in exports.items() if name.startswith("AWS_")})
    with contextlib.suppress(BotoCoreError, ClientError):  # it is there, or the next line says what is wrong
        boto3.client("s3", endpoint_url=exports["AWS_ENDPOINT_URL"]).create_bucket(Bucket=bucket)
    open_store(f"s3://{bucket}").list("mlflow")

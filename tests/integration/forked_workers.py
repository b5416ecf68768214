"""Ray's workers, forked from processes that have imported what they need.

A worker that imports torch, Ray and ufgvc for itself takes four seconds of a core, and the integration tests start two
hundred. A forked one runs Ray's own `default_worker.py` with the arguments and the environment that Ray gave. Only the
shared Ray head of a pytest run has forked workers; clusters that tests start for themselves start theirs as Ray does.

Ray keeps the id of the job that is in the environment when it is imported, so one process imports everything but Ray,
and forks a process for each job that imports Ray and forks the job's workers.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np

from tests.integration import fork_worker
from tests.integration.ray_head import SLOTS

BEFORE_RAY = (
    "torch._dynamo",
    "torchvision",
    "torch.distributed",
    "pandas",
    "pyarrow.dataset",
    "fsspec",
    "ufgvc.data.ingest",
    "ufgvc.evaluation.predict",
    "ufgvc.regions.mask_worker",
    "ufgvc.experiments.training_job",
    "ufgvc.training.folds",
)
WITH_RAY = ("ray.data", "ray.train.torch", "ray.tune", "ufgvc.experiments.search_trial", "ufgvc.training.distributed")
IDLE = 60.0  # seconds after which the process of a job ends; another one is forked if the job needs more workers


@contextlib.contextmanager
def forked_workers(folder: Path) -> Iterator[None]:
    """A Ray that this process starts meanwhile has forked workers.  folder: for the socket."""
    from ray._private import ray_constants, services

    address = str(folder / "workers")
    process = subprocess.Popen([sys.executable, "-m", __name__, address, str(os.getpid())])
    while not Path(address).exists():
        assert process.poll() is None, "the process that forks workers has ended"
        time.sleep(0.02)
    os.environ[fork_worker.SOCKET] = address
    try:
        with (
            mock.patch.object(ray_constants, "SETUP_WORKER_FILENAME", fork_worker.__file__),
            # Else Ray starts as many at once as there are cores, and warns in the output of any test when more start.
            mock.patch.object(services.multiprocessing, "cpu_count", return_value=SLOTS),
        ):
            yield
    finally:
        process.terminate()
        process.wait(30)


def main() -> None:
    """Serves until the parent has ended."""
    from ufgvc.core.process import disable_telemetry

    address, parent = sys.argv[1], int(sys.argv[2])
    disable_telemetry()
    import_all(BEFORE_RAY)
    assert "ray" not in sys.modules
    jobs: dict[str, socket.socket] = {}
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{address}.part")
        server.listen(64)
        os.rename(f"{address}.part", address)
        while Path("/proc", str(parent)).exists():
            if select.select([server], [], [], 1)[0]:
                connection, _ = server.accept()
                forward(connection, jobs, server)


def forward(connection: socket.socket, jobs: dict[str, socket.socket], server: socket.socket) -> None:
    """Passes a request to the process of its job, which is forked if there is none."""
    data, files = receive(connection, 3)
    if not data:
        return
    environment = Request.read(data).environment
    job = environment.get("RAY_JOB_ID", "")
    for _ in range(2):
        if job not in jobs:
            jobs[job], theirs = socket.socketpair()
            fork(serve_job, theirs, environment, [connection, server, *jobs.values()], files)
            theirs.close()
        try:
            fork_worker.send(jobs[job], data, [connection.fileno(), *files])
            break
        except OSError:  # it has ended
            jobs.pop(job).close()
    connection.close()
    close(files)


def serve_job(
    requests: socket.socket, environment: dict[str, str], others: Sequence[socket.socket], files: Sequence[int]
) -> None:
    """In the process of a job: forks its workers, until none was asked for in `IDLE` seconds.

    others, files: of the process that forked it.
    """
    for other in others:
        other.close()
    close(files)
    set_environment(environment)
    with patched_class_ids():
        import_all(WITH_RAY)
    assert draw_id() != draw_id(), "an import has drawn one of Ray's random ids, so all workers would draw the same"
    while True:
        if not select.select([requests], [], [], IDLE)[0]:
            requests.shutdown(socket.SHUT_RD)  # what comes now fails at its sender, what has come is still read
        data, wanted = receive(requests, 4)
        if not data:
            return
        fork(become_worker, Request.read(data), wanted, requests)
        close(wanted)


@contextlib.contextmanager
def patched_class_ids() -> Iterator[None]:
    """Ids of actor classes that are defined meanwhile do not come from Ray's generator, which a fork would copy."""
    from ray import actor

    drawn = actor.ActorClassID
    replacement = SimpleNamespace(from_random=lambda: drawn(os.urandom(drawn.size())))
    actor.ActorClassID = replacement
    yield
    actor.ActorClassID = drawn


def draw_id() -> bytes:
    """The first random id of a forked process."""
    from ray import WorkerID

    ours, theirs = os.pipe()
    if os.fork() == 0:
        os.write(theirs, WorkerID.from_random().binary())
        os._exit(0)
    os.close(theirs)
    with open(ours, "rb") as file:
        return file.read()


@dataclass(frozen=True)
class Request:
    """What Ray would have started.  arguments: default_worker.py and its own."""

    folder: str
    arguments: list[str]
    environment: dict[str, str]

    @classmethod
    def read(cls, data: bytes) -> Request:
        folder, count, *parts = data.decode("utf-8", "surrogateescape").split("\0")
        return cls(folder, parts[: int(count)], dict(each.split("=", 1) for each in parts[int(count) :]))


def receive(connection: socket.socket, count: int) -> tuple[bytes, list[int]]:
    """What `fork_worker.send` sent, with `count` files; no data if the other end is closed."""
    head, files, _, _ = socket.recv_fds(connection, 4, count)
    data, length = b"", int.from_bytes(head, "big")
    while len(data) < length:
        part = connection.recv(length - len(data))
        if not part:
            return b"", files
        data += part
    return data, files


def close(files: Sequence[int]) -> None:
    for file in files:
        os.close(file)


def import_all(names: Sequence[str]) -> None:
    for name in names:
        importlib.import_module(name)
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    lost = [name for name in threads if not name.startswith(("python", "jemalloc"))]  # jemalloc starts its own again
    assert not lost, f"threads of imported libraries, which a fork would lose: {lost}"
    gc.collect()
    gc.freeze()  # the forked processes share the memory


def fork(work: Callable[..., object], *arguments: object) -> None:
    """Runs `work` in a forked process, which nothing waits for."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    if os.fork():
        return
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        work(*arguments)
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    sys.exit(0)


def set_environment(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)


def become_worker(request: Request, files: Sequence[int], requests: socket.socket) -> None:
    """What Ray's `setup_worker.py` does, without a new program.  files: the connection, which stays open until the
    worker ends, and its standard files.
    """
    from ray._private.runtime_env.context import RuntimeEnvContext
    from ray._private.utils import update_envs

    requests.close()
    for target, file in enumerate(files[1:]):
        os.dup2(file, target)
        os.close(file)
    os.chdir(request.folder)
    set_environment(request.environment)
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--serialized-runtime-env-context", default="{}")
    parser.add_argument("--language")
    given, sys.argv = parser.parse_known_args(request.arguments)
    context = RuntimeEnvContext.deserialize(given.serialized_runtime_env_context)
    assert not context.command_prefix, "a worker with an installation of its own cannot be forked"
    update_envs(context.env_vars)
    np.random.seed()  # from the system, as when NumPy is imported
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()

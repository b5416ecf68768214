"""What every test may use: real data where it exists, free ports, server processes that end with the test."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration import ray_head
from ufgvc.core.process import disable_telemetry, let_idle_threads_sleep

_ANNOUNCED = pytest.StashKey[Path]()

# A third of the time in which tests are collected went to looking for garbage among modules and tests, which all stay.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()
    gc.set_threshold(20_000, 20, 50)  # a full collection takes 0.2 s where torch is imported


def pytest_configure(config: pytest.Config) -> None:
    """A folder through which the processes of this run share one Ray head; xdist's workers inherit its name, and all
    processes that idle threads sleep and packages report nothing.
    """
    let_idle_threads_sleep()
    disable_telemetry()
    os.environ |= {"RAY_prestart_worker_first_driver": "0"}  # Ray would start a worker for each slot, needed or not
    if not hasattr(config, "workerinput"):
        config.stash[_ANNOUNCED] = Path(tempfile.mkdtemp(prefix="ufgvc-tests-"))
        ray_head.announce(config.stash[_ANNOUNCED])
        # Else each MLflow server starts processes for jobs that we do not use.
        os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"


def pytest_unconfigure(config: pytest.Config) -> None:
    folder = config.stash.get(_ANNOUNCED, None)
    if folder is not None:
        ray_head.end(folder)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def _threads_stay() -> Iterator[None]:
    """A command that takes all cores for torch leaves the next test as many threads as before."""
    before = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
    yield
    if before is not None and sys.modules["torch"].get_num_threads() != before:
        sys.modules["torch"].set_num_threads(before)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Published leaves and label files, which this repository may not hold: UFGVC_REAL_DATA names their folder."""
    if "UFGVC_REAL_DATA" not in os.environ:
        pytest.skip("UFGVC_REAL_DATA names no folder with published leaves")
    return Path(os.environ["UFGVC_REAL_DATA"])


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return find


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a server process and waits until it answers HTTP (any status); all of them end with the session."""
    started: list[subprocess.Popen[bytes]] = []

    def start(
        command: list[str], url: str, env: dict[str, str] | None = None, log: Path | None = None, within: float = 240
    ) -> subprocess.Popen[bytes]:
        with open(log or os.devnull, "wb") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, env={**os.environ, **(env or {})}, start_new_session=True
            )
        started.append(process)
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            assert process.poll() is None, (
                f"{command[0]} ended with {process.returncode}: {log.read_text() if log else ''}"
            )
            try:
                urllib.request.urlopen(url, timeout=2)
                return process
            except urllib.error.HTTPError:
                return process
            except (OSError, TimeoutError):
                time.sleep(0.2)
        raise AssertionError(f"{command[0]} did not answer at {url} within {within:.0f} s")

    yield start
    for process in started:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a server and everything it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)

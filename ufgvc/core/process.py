"""The process itself: logging, versions, where the code came from."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.metadata
import logging
import os
import platform
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TextIO

PACKAGES = (
    "ufgvc",
    "torch",
    "torchvision",
    "ray",
    "mlflow",
    "ultralytics-opencv-headless",
    "pyarrow",
    "numpy",
    "pillow",
)


class Stopped(KeyboardInterrupt):
    """SIGTERM asked the process to end (`ray job stop`, a scheduler): everything that knows Control-C treats it alike."""


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Within the block SIGTERM raises Stopped in the main thread, so that runs are closed as they are for Control-C."""
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    told = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal told
        if told:  # some senders say it twice, and the second would cut the clearing up short
            return
        told = True
        answer = signal.getsignal(signal.SIGINT)
        if callable(answer) and answer is not signal.default_int_handler:
            answer(
                signal.SIGINT, frame
            )  # Ray Train ends its workers in order when it hears Control-C, and knows no SIGTERM
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        if told:
            raise Stopped from None  # where Ray's core was waiting it hands on every interrupt as a plain one
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def output_may_be_cut() -> Iterator[None]:
    """Within the block a reader of the output may leave early (`| head`): SystemExit(141), as a shell names it, and no traceback.

    A pipe that breaks elsewhere, such as the connection to a server, stays the error that it is.
    """
    try:
        try:
            yield
        except SystemExit:
            sys.stdout.flush()  # else the interpreter would, where nobody can catch the error
            raise
        sys.stdout.flush()
    except BrokenPipeError:
        cut = [stream for stream in (sys.stdout, sys.stderr) if _without_reader(stream)]
        if not cut:
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in cut:  # what is still in its buffer is written when the process ends
            os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        raise SystemExit(128 + signal.SIGPIPE) from None


def _without_reader(stream: TextIO) -> bool:
    try:
        number = stream.fileno()
    except (OSError, ValueError):  # no file: an object of a test or of a notebook
        return False
    poll = select.poll()
    poll.register(number, select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


@contextlib.contextmanager
def restore_signal_handlers() -> Iterator[None]:
    """Around a library that answers signals itself: our answers hold again after the block, and its exits become what they mean.

    Ray leaves with SystemExit: the signal's number for SIGTERM, 0 for Control-C once its training workers have ended. Where its core
    was waiting the code is always 1, and the one that was meant stands in a message.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except SystemExit as leaving:
        said = getattr(leaving, "ray_terminate_msg", "")
        if leaving.code == signal.SIGTERM or f"code: {signal.SIGTERM.value}" in said:
            raise Stopped from None
        if leaving.code == 0 or said:
            raise KeyboardInterrupt from None
        raise
    finally:
        for number, answer in before.items():
            if answer is not None:  # None: not Python's to set again
                signal.signal(number, answer)


def setup_logging(level: int = logging.INFO) -> None:
    """Called by entry points only: plain lines on standard error."""
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    for noisy in ("alembic", "mlflow", "botocore", "urllib3", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def passive_omp_wait() -> None:
    """Threads that wait for work sleep instead of spinning. OpenMP reads this when torch is loaded, so it is called before.

    Beside other processes on the same cores a detector trained five times as fast with it.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def disable_telemetry() -> None:
    """Libraries report nothing about their use."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")


def git_commit() -> str | None:
    """The commit of the code that runs, with "-dirty" if the tree was changed: UFGVC_COMMIT, else what git says; None without either.

    The variable comes first: a host that gets the files without their history may hold a repository at an older commit.
    """
    if known := os.environ.get("UFGVC_COMMIT"):
        return known
    root = Path(__file__).resolve().parents[2]
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def versions() -> dict[str, str]:
    """Python's version and those of the packages that a result depends on (only those installed)."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def cpu_count() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def trim_memory() -> None:
    """Frees what nothing refers to any more and returns it to the system, in a process that trains one net after another.

    Each training of a trial runs on a new thread, and glibc keeps what a thread has freed for that thread.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)

"""The process: signals, logging, library settings, versions and the commit of the code."""

from __future__ import annotations

import contextlib
import ctypes
import functools
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

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # options of mallopt, see malloc.h
_KEPT_BYTES = 2**30  # larger blocks go back to the system
_KEPT_BYTES_BEFORE_2_35 = 2**25  # the most that earlier versions of glibc take


class Stopped(KeyboardInterrupt):
    """SIGTERM asked the process to end (`ray job stop`, a scheduler). A KeyboardInterrupt, so that it is handled like
    Control-C.
    """


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Raises Stopped in the main thread on SIGTERM, so that runs are closed as for Control-C."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread can set signal handlers
        yield
        return
    received = False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal received
        if received:  # some senders send it twice, and the second would interrupt the cleanup
            return
        received = True
        handler = signal.getsignal(signal.SIGINT)
        if callable(handler) and handler is not signal.default_int_handler:
            handler(signal.SIGINT, frame)  # Ray Train shuts its workers down on SIGINT, but not on SIGTERM
        raise Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        if received:
            raise Stopped from None  # Ray's core turns every exception that interrupts it into a KeyboardInterrupt
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def output_may_be_cut() -> Iterator[None]:
    """Turns a closed pipe of standard output (`| head`) into SystemExit(141), as in a shell, without a traceback.

    Another broken pipe, such as the connection to a server, stays an error.
    """
    try:
        try:
            yield
        except SystemExit:
            sys.stdout.flush()  # else the interpreter would, where the error cannot be caught
            raise
        sys.stdout.flush()
    except BrokenPipeError:
        closed = [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream)]
        if not closed:
            raise
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in closed:  # its buffer is still written when the process ends
            os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        raise SystemExit(128 + signal.SIGPIPE) from None


def _has_no_reader(stream: TextIO) -> bool:
    try:
        number = stream.fileno()
    except (OSError, ValueError):  # not a file: an object of a test or a notebook
        return False
    poll = select.poll()
    poll.register(number, select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


@contextlib.contextmanager
def restore_signal_handlers() -> Iterator[None]:
    """Restores our signal handlers after a library replaced them and maps its SystemExit to KeyboardInterrupt.

    Ray exits with SystemExit: its code is the signal's number for SIGTERM, and 0 for Control-C once the training
    workers have ended. If Ray's core was waiting, the code is always 1, and the intended one is part of a message.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except SystemExit as leaving:
        message = getattr(leaving, "ray_terminate_msg", "")
        if leaving.code == signal.SIGTERM or f"code: {signal.SIGTERM.value}" in message:
            raise Stopped from None
        if leaving.code == 0 or message:
            raise KeyboardInterrupt from None
        raise
    finally:
        for number, handler in before.items():
            if handler is not None:  # None: it was not set by Python
                signal.signal(number, handler)


def setup_logging(level: int = logging.INFO) -> None:
    """Plain log lines on standard error. Called by entry points only."""
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    for noisy in ("alembic", "mlflow", "botocore", "urllib3", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def let_idle_threads_sleep() -> None:
    """Makes idle threads of OpenMP and OpenBLAS sleep instead of spinning. Call it before numpy and torch are imported.

    With other processes on the same cores a detector trained five times as fast with it. OpenBLAS's threads spin for 26
    ms after each product of matrices, which slowed the network's threads: `predict` took a sixth more CPU time.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")  # 2^4 cycles, the least that it takes


def keep_freed_memory() -> None:
    """Makes the C library keep the memory of freed tensors for the next ones, in a process that computes on CPUs.

    By default it returns large blocks to the system, which clears each page when it is used again: that took 10 to 30 %
    of the CPU time of a step (docs/results/speed.md). `trim_memory` still returns them.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc only
    if set_option is not None:
        set_option(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        set_option(_M_MMAP_THRESHOLD, _KEPT_BYTES) or set_option(_M_MMAP_THRESHOLD, _KEPT_BYTES_BEFORE_2_35)


def disable_telemetry() -> None:
    """Disables the usage reports of MLflow, onnxruntime and others, which look when they are imported."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DO_NOT_TRACK", "true")


def git_commit() -> str | None:
    """The commit of the running code, with "-dirty" for a changed tree: UFGVC_COMMIT, else that of git, else None.

    The variable comes first because a host that gets the files without their history may have a repository at an older
    commit.
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
    """Versions of Python and of the installed packages that results depend on."""
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


@functools.cache
def _freeze_survivors() -> None:
    """Once in a process: what a first collection leaves is modules, and going through torch's takes 0.2 s each time."""
    gc.freeze()


def trim_memory() -> None:
    """Collects garbage and returns free memory to the system, for a process that trains one network after another.

    Each training of a trial runs in a new thread, and glibc keeps memory that a thread has freed for that thread.
    """
    gc.collect()
    _freeze_survivors()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)

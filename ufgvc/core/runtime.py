"""The process itself: logging, versions, where the code came from."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import subprocess
import sys
from pathlib import Path

PACKAGES = ("ufgvc", "torch", "torchvision", "ray", "mlflow", "ultralytics-opencv-headless", "pyarrow", "numpy", "pillow")


def setup_logging(level: int = logging.INFO) -> None:
    """Called by entry points only: plain lines on standard error."""
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    for noisy in ("alembic", "mlflow", "botocore", "urllib3", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def yield_idle_threads() -> None:
    """Threads that wait for work sleep instead of spinning. OpenMP reads this when torch is loaded, so it is called before.

    Beside other processes on the same cores a detector trained five times as fast with it.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def send_nothing_home() -> None:
    """Libraries report nothing about their use."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")


def git_commit() -> str | None:
    """The commit of the code that runs, with "-dirty" if the tree was changed; None outside a git checkout."""
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

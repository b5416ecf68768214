"""The folder that all processes of a pytest run share, and what is made in it once for all of them."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

VARIABLE = "UFGVC_TESTS_FOLDER"


def made_once(name: str, make: Callable[[Path], object]) -> Path:
    """<folder of the run>/<name>, made by the first process that asks for it, while the others wait. Only to be read.

    make: called with the path, at which there is nothing yet.
    """
    path = Path(os.environ[VARIABLE]) / name
    made = path.with_name(f"{name}.made")
    with open(path.with_name(f"{name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(path, ignore_errors=True)  # of a process that ended while it made it
            make(path)
            made.touch()
    return path

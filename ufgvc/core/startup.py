"""When this process reached what: from the command to the first training step."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping

import psutil

COMMAND = "command"
_reached: dict[str, float] = {}


def mark(phase: str) -> None:
    """Notes that a phase of the start has ended now, the first time that it does."""
    _reached.setdefault(phase, time.time())


def marks() -> dict[str, float]:
    """Unix times at which phases ended, in order, after the time at which this process began."""
    return {COMMAND: psutil.Process().create_time(), **_reached}


def phases(reached: Mapping[str, float]) -> dict[str, float]:
    """Seconds that each phase took, in the order of their ends; marks of several processes of one machine may be mixed."""
    ends = sorted(reached.items(), key=lambda pair: pair[1])
    return {name: end - before for (_, before), (name, end) in itertools.pairwise(ends)}


def startup_line(seconds: Mapping[str, float]) -> str:
    """first step 14.2 s after the command: imports 3.1 s, Ray 6.0 s, ..."""
    parts = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    return f"first step {sum(seconds.values()):.1f} s after the command: {parts}"

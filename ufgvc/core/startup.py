"""Timestamps of the phases of start-up, from the command to the first training step."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping

COMMAND = "command"
_reached: dict[str, float] = {}


def mark(phase: str) -> None:
    """Records that a phase of start-up ends now. Only the first call for a phase counts."""
    _reached.setdefault(phase, time.time())


def marks() -> dict[str, float]:
    """Unix times: the start of this process as "command", then the end of each phase, in order."""
    import psutil  # not where a saved model is served

    return {COMMAND: psutil.Process().create_time(), **_reached}


def phases(reached: Mapping[str, float]) -> dict[str, float]:
    """Seconds that each phase took, in the order of their ends.  reached: of `marks`; of several processes of one
    machine together.
    """
    ends = sorted(reached.items(), key=lambda pair: pair[1])
    return {name: end - before for (_, before), (name, end) in itertools.pairwise(ends)}


def startup_line(seconds: Mapping[str, float]) -> str:
    """The log line: `first step 14.2 s after the command: imports 3.1 s, Ray 6.0 s, ...`"""
    parts = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    return f"first step {sum(seconds.values()):.1f} s after the command: {parts}"

"""Runs commands as processes with one log; a command that reaches its time limit ends with all processes that it
started.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

TAIL = 30  # lines of a failed part that the summary shows
GRACE = 10.0  # seconds between SIGTERM and SIGKILL
PR_SET_CHILD_SUBREAPER = 36

State = Literal["ok", "failed", "cut off", "left out"]


@dataclass
class Log:
    """One file for the output of all commands, written line by line, so that a call that is cut off leaves it."""

    path: Path
    lock: threading.Lock = field(default_factory=threading.Lock)

    def line(self, who: str, text: str) -> None:
        """Appends a line of output to the log, after the name of the command that wrote it."""
        with self.lock, open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{who} | {text}\n")


class Command:
    """A running command.  tail: its last lines of output."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], log: Log, cwd: Path) -> None:
        self.name, self.started, self.ended = name, time.monotonic(), 0.0
        self.tail: deque[str] = deque(maxlen=TAIL)
        log.line(name, "$ " + " ".join(command))
        self.process = subprocess.Popen(
            [*command],
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.reader = threading.Thread(target=self._read, args=(log,), daemon=True)
        self.reader.start()

    def _read(self, log: Log) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.tail.append(line.rstrip())
            log.line(self.name, line.rstrip())

    def running(self) -> bool:
        """Whether the process still runs."""
        if self.process.poll() is None:
            return True
        if not self.ended:
            self.ended = time.monotonic()
            self.reader.join(timeout=5)  # a grandchild may still hold the pipe open
        return False

    @property
    def seconds(self) -> float:
        """Seconds since the start, or until the end."""
        return (self.ended or time.monotonic()) - self.started

    def end(self) -> None:
        """Terminates the command, then kills its process group."""
        if self.running():
            # The leader alone: Ray's processes end in order when the command that started them does.
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.running()


@dataclass(frozen=True)
class Outcome:
    """How a command ended.  tail: its last lines of output."""

    name: str
    state: State
    seconds: float
    tail: tuple[str, ...] = ()


def watch(
    children: Sequence[Command], deadline: float, tick: Callable[[], None] = lambda: None, every: float = 15.0
) -> list[Outcome]:
    """Waits for concurrent commands until the deadline (of time.monotonic) at most, and ends those that still run then.

    tick: called every `every` seconds meanwhile.
    """
    outcomes: dict[str, Outcome] = {}
    ticked = time.monotonic()
    try:
        while len(outcomes) < len(children) and time.monotonic() < deadline:
            for child in children:
                if child.name not in outcomes and not child.running():
                    state: State = "ok" if child.process.returncode == 0 else "failed"
                    outcomes[child.name] = Outcome(child.name, state, child.seconds, tuple(child.tail))
            if time.monotonic() - ticked >= every:
                ticked = time.monotonic()
                tick()
            time.sleep(0.1)
    finally:
        stop = [threading.Thread(target=child.end) for child in children]  # in parallel: each may take GRACE seconds
        for thread in stop:
            thread.start()
        for thread in stop:
            thread.join()
    return [
        outcomes.get(child.name) or Outcome(child.name, "cut off", child.seconds, tuple(child.tail))
        for child in children
    ]


def adopt_orphans() -> None:
    """Makes processes whose parent ends children of this one, so that `kill_descendants` finds them. Linux only."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(pid: int) -> list[int]:
    """Ids of all processes below one, children first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, IndexError, ValueError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = list(children.get(pid, []))
    for child in found:  # grows meanwhile
        found += children.get(child, [])
    return found


def kill_descendants(spare: Sequence[int] = (), seconds: float = 10.0) -> int:
    """Kills the processes below this one, after the last command; how many there were.  spare: processes to leave
    alone.
    """
    ended: set[int] = set()
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in descendants(os.getpid()) if pid not in spare]) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                if not Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0].startswith("Z"):
                    os.kill(pid, signal.SIGKILL)
                    ended.add(pid)
            with contextlib.suppress(ChildProcessError, FileNotFoundError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.05)
    return len(ended)

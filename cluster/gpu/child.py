"""Commands as processes of their own: what they say goes to one log, and at its limit a command ends with all that it started."""

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
GRACE = 10.0  # seconds between the request to stop and the end
PR_SET_CHILD_SUBREAPER = 36

State = Literal["ok", "failed", "cut off", "left out"]


@dataclass
class Log:
    """One file for all commands, written line by line as they come. A call that is cut off leaves what was said until then."""

    path: Path
    lock: threading.Lock = field(default_factory=threading.Lock)

    def line(self, who: str, text: str) -> None:
        with self.lock, open(self.path, "a", encoding="utf-8") as file:
            file.write(f"{who} | {text}\n")


class Child:
    """A command that runs."""

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
        if self.process.poll() is None:
            return True
        if not self.ended:
            self.ended = time.monotonic()
            self.reader.join(timeout=5)  # what a lost grandchild still holds open is not waited for
        return False

    @property
    def seconds(self) -> float:
        return (self.ended or time.monotonic()) - self.started

    def end(self) -> None:
        """Asks the command to stop, as its own Control-C would, then ends its process group."""
        if self.running():
            # Its leader alone: Ray's processes end in order when the command that started them does.
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.running()


@dataclass(frozen=True)
class Ended:
    """How a command ended.  tail: its last lines."""

    name: str
    state: State
    seconds: float
    tail: tuple[str, ...] = ()


def watch(
    children: Sequence[Child], deadline: float, tick: Callable[[], None] = lambda: None, every: float = 15.0
) -> list[Ended]:
    """Waits for commands that run side by side, until the deadline (of time.monotonic) at most; ends them whatever happens.

    tick: called every so many seconds meanwhile.
    """
    ended: dict[str, Ended] = {}
    ticked = time.monotonic()
    try:
        while len(ended) < len(children) and time.monotonic() < deadline:
            for child in children:
                if child.name not in ended and not child.running():
                    state: State = "ok" if child.process.returncode == 0 else "failed"
                    ended[child.name] = Ended(child.name, state, child.seconds, tuple(child.tail))
            if time.monotonic() - ticked >= every:
                ticked = time.monotonic()
                tick()
            time.sleep(0.1)
    finally:
        stop = [threading.Thread(target=child.end) for child in children]  # side by side: each may take its grace
        for thread in stop:
            thread.start()
        for thread in stop:
            thread.join()
    return [
        ended.get(child.name) or Ended(child.name, "cut off", child.seconds, tuple(child.tail)) for child in children
    ]


def adopt_orphans() -> None:
    """Processes whose parent ends become this one's children, so that `delete_unreferenced` finds them. Linux; elsewhere nothing happens."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(of: int) -> list[int]:
    """Processes below one, the nearest first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, IndexError, ValueError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found = list(children.get(of, []))
    for pid in found:  # grows meanwhile
        found += children.get(pid, [])
    return found


def delete_unreferenced(but: Sequence[int] = (), seconds: float = 10.0) -> int:
    """Ends what is left below this process when no command runs any more; how many there were.  but: those to leave alone."""
    ended: set[int] = set()
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in descendants(os.getpid()) if pid not in but]) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                if not Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0].startswith("Z"):
                    os.kill(pid, signal.SIGKILL)
                    ended.add(pid)
            with contextlib.suppress(ChildProcessError, FileNotFoundError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.05)
    return len(ended)

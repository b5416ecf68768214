"""What processes cost the machine: CPU seconds and memory of one together with all that it has started."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

import psutil

SAMPLE_SECONDS = 0.1
_MEMORY_SAMPLES = 3  # memory is looked at in every third sample: it takes milliseconds for each process


class TreeClock:
    """Context manager: adds up CPU seconds while it is open.

    A thread looks every SAMPLE_SECONDS, so that processes that have ended count, up to that time.
    """

    def __init__(self, pid: int | None = None) -> None:
        """pid: of the first process; None: this one."""
        self._root = psutil.Process(pid)
        self._used: dict[tuple[int, float], float] = {}
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> TreeClock:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def __call__(self) -> float:
        """The CPU seconds that the process and its descendants have used so far."""
        with self._lock:
            for process in _tree(self._root):
                try:
                    times = process.cpu_times()
                    self._used[process.pid, process.create_time()] = times.user + times.system
                except psutil.NoSuchProcess:
                    continue
            return sum(self._used.values())

    def _watch(self) -> None:
        sample = 0
        while not self._end.wait(SAMPLE_SECONDS):
            self()
            if sample % _MEMORY_SAMPLES == 0:
                self._look_at_memory()
            sample += 1

    def _look_at_memory(self) -> None:
        """For a subclass."""


class TreeWatch(TreeClock):
    """A TreeClock that also notes peaks of memory in bytes.

    memory: of all processes.  own_memory: of the first process alone, without mapped files and shared memory.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(pid)
        self.memory = self.own_memory = 0.0

    def __enter__(self) -> TreeWatch:
        super().__enter__()
        return self

    def _look_at_memory(self) -> None:
        self.memory = max(self.memory, tree_memory(self._root))
        try:
            held = self._root.memory_info()
        except psutil.NoSuchProcess:
            return
        self.own_memory = max(self.own_memory, float(held.rss - getattr(held, "shared", 0)))


def tree_memory(root: psutil.Process) -> float:
    """Bytes of a process and its descendants; shared memory counts once (proportional set size) where the system
    reports it."""
    total = 0.0
    for each in _tree(root):
        try:
            about: Any = each.memory_full_info()
            total += getattr(about, "pss", about.uss)
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # it has ended
            continue
    return total


def _tree(root: psutil.Process) -> list[psutil.Process]:
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []

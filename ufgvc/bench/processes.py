"""CPU seconds of this process together with all that it has started: what a way of reading costs the machine."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil

SAMPLE_SECONDS = 0.1


class TreeClock:
    """Context manager: adds up CPU seconds while it is open.

    A thread looks every SAMPLE_SECONDS, so that processes that have ended count, up to that time.
    """

    def __init__(self) -> None:
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
        """The CPU seconds that this process and its descendants have used so far."""
        root = psutil.Process()
        with self._lock:
            for process in (root, *root.children(recursive=True)):
                try:
                    times = process.cpu_times()
                    self._used[process.pid, process.create_time()] = times.user + times.system
                except psutil.NoSuchProcess:
                    continue
            return sum(self._used.values())

    def _watch(self) -> None:
        while not self._end.wait(SAMPLE_SECONDS):
            self()

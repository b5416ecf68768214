"""How far many trials are: from the first minute on, and at most once a minute, a line in the log."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from ufgvc.core.errors import UserError
from ufgvc.core.text import format_duration

log = logging.getLogger(__name__)
FIRST_SECONDS, SECONDS = 30.0, 60.0  # until the first line, and between lines


class TrialProgress:
    """Context manager: a thread that logs how many trials have ended and about how long the others take.

    what: what the trials are called, in the plural.  count: of those to run.  before: how many ended in earlier starts.
    share: how much of a running trial is done, in [0, 1]; read from storage, by the thread.
    now: seconds of a clock.
    """

    def __init__(
        self,
        what: str,
        count: int,
        before: int,
        share: Callable[[int], float],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.what, self.count, self.before = what, count, before
        self.ended = 0
        self._running: set[int] = set()
        self._share, self._now = share, now
        self._started: float | None = None  # of the first trial: Ray's own start is not part of the estimate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="progress")

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks and all that they refer to, and never loads that; a thread cannot be pickled."""
        return {"what": self.what}

    def start(self, item: int) -> None:
        """A trial has started, or started again after its process was lost."""
        if self._started is None:
            self._started = self._now()
        self._running.add(item)

    def end(self, item: int) -> None:
        """A trial has ended."""
        self._running.discard(item)
        self.ended += 1

    def line(self) -> str:
        """For example: trials: 3 of 40 ended, 4 running, about 25 min left."""
        running = sorted(self._running)
        text = f"{self.what}: {self.before + self.ended} of {self.before + self.count} ended, {len(running)} running"
        done = self.ended + sum(self._share_of(item) for item in running)
        if self._started is None or done <= 0:
            return f"{text}, time left not known yet"
        left = (self._now() - self._started) * (self.count - done) / done
        return f"{text}, about {format_duration(max(0.0, left))} left"

    def __enter__(self) -> TrialProgress:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _share_of(self, item: int) -> float:
        try:
            return min(1.0, max(0.0, self._share(item)))
        except UserError:  # the storage fails: the trials themselves say so
            return 0.0

    def _follow(self) -> None:
        wait = FIRST_SECONDS
        while not self._stop.wait(wait):
            log.info("%s", self.line())
            wait = SECONDS

"""metrics.jsonl of a run: a line of metrics for each finished epoch, appended where the storage can."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ufgvc.core.appending import append_text, read_from
from ufgvc.core.storage import Store

NAME, PROGRESS = "metrics.jsonl", "progress.json"
REMOTE_SECONDS = 5.0  # between writes to an object store, at least
REMOTE_SHARE = 0.01  # of the time that these writes may take, at most
Row = dict[str, float]
# Called after each epoch with the history and None, and after a checkpoint with the number of epochs that it covers.
OnProgress = Callable[[Sequence[Row], int | None], None]


@dataclass
class MetricsWriter:
    """Writes the history of one process's training.

    A local file gets the new rows only. An object is written whole, so not each epoch: see REMOTE_SECONDS and
    REMOTE_SHARE; `flush` writes what is left. A checkpoint has the whole history, so a killed process loses no row
    that a checkpoint has.
    on_progress: of the process that follows the training, if it is this one; others read the files.
    """

    store: Store
    on_progress: OnProgress | None = None
    _written: int = -1  # rows in the file; -1: those of an earlier process, which may be after its last checkpoint
    _next: float = 0.0  # time of the next write to an object store

    def add(self, history: Sequence[Row]) -> None:
        """Called after each epoch.  history: rows of all epochs."""
        if self.store.is_local or time.monotonic() >= self._next:
            self.flush(history)
        if self.on_progress:
            self.on_progress(history, None)

    def mark_checkpoint(self, history: Sequence[Row]) -> None:
        """Called when a checkpoint covers the history; the file must have it."""
        self.store.write_json(PROGRESS, {"checkpointed": len(history)})
        if self.on_progress:
            self.on_progress(history, len(history))

    def flush(self, history: Sequence[Row]) -> None:
        """Writes the rows that are not in the file."""
        if len(history) == self._written:
            return
        started = time.monotonic()
        if self.store.is_local and self._written >= 0:
            append_text(self.store, NAME, _lines(history[self._written :]))
        else:
            self.store.write_text(NAME, _lines(history))
        ended = time.monotonic()
        self._written, self._next = len(history), ended + max(REMOTE_SECONDS, (ended - started) / REMOTE_SHARE)


@dataclass
class MetricsReader:
    """Reads a history that grows: each read asks only for what is behind the last row."""

    store: Store
    rows: list[Row] = field(default_factory=list)
    _size: int = 0  # bytes of the rows

    def read(self) -> list[Row]:
        """The rows of all finished epochs, oldest first; [] if there are none. Fewer than before if the training went
        back to a checkpoint.
        """
        try:
            if not self._read_behind():
                self.rows, self._size = [], 0
                self._read_behind()
        except FileNotFoundError:
            self.rows, self._size = [], 0
        return self.rows

    def _read_behind(self) -> bool:
        """Adds the complete lines behind the last row; False if this is not the file that was read before."""
        found = read_from(self.store, NAME, max(0, self._size - 1))
        if self._size:
            if not found.startswith(b"\n"):
                return False
            found = found[1:]
        complete = found[: found.rfind(b"\n") + 1]
        try:
            new = [json.loads(line) for line in complete.splitlines()]
        except ValueError:
            if self._size:
                return False
            raise
        if self.rows and new and new[0]["epoch"] != self.rows[-1]["epoch"] + 1:
            return False
        self.rows, self._size = [*self.rows, *new], self._size + len(complete)
        return True


def read_metrics(run: Store) -> list[Row]:
    """The metrics of a run's finished epochs, oldest first; [] if there are none."""
    return MetricsReader(run).read()


def _lines(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)

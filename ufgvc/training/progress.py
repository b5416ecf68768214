"""Shows the progress of a training: one line an epoch, and a progress bar on a terminal."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ufgvc.core.errors import UserError
from ufgvc.core.output import is_quiet
from ufgvc.core.startup import COMMAND, marks, startup_line
from ufgvc.core.storage import Store
from ufgvc.core.text import format_duration
from ufgvc.training.metrics_file import PROGRESS, MetricsReader, Row

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5  # between reads of a local run folder
REMOTE_POLL_SECONDS = (5.0, 30.0)  # the same for object stores, at least and at most


def poll_seconds(run: Store, rows: list[Row]) -> float:
    """Seconds to wait before the run folder is read again; on an object store a tenth of an epoch, within limits."""
    if run.is_local:
        return POLL_SECONDS
    shortest, longest = REMOTE_POLL_SECONDS
    return min(longest, max(shortest, rows[-1]["seconds"] / 10)) if rows else shortest


def epoch_line(row: Row, epochs: int, rest_seconds: float) -> str:
    """The line of an epoch in the log.

    epoch 3/60  loss 1.234 (classification 1.20)  train accuracy 45.0 %  9.0 images/s  3 % waiting for data  2 min to go
    """
    parts = "  ".join(
        f"{name.removeprefix('loss_')} {value:.4f}" for name, value in row.items() if name.startswith("loss_")
    )
    text = f"epoch {int(row['epoch'])}/{epochs}  loss {row['loss']:.4f} ({parts})"
    text += f"  train accuracy {100 * row['train_accuracy']:.1f} %"
    if "validation_accuracy" in row:
        text += f"  validation {int(row['validation_correct'])}/{int(row['validation_leaves'])}"
    text += f"  {row['images_per_second']:.1f} images/s  {100 * row['data_wait']:.0f} % waiting for data"
    return f"{text}  {format_duration(rest_seconds)} to go"


class Follower:
    """Context manager: a thread that shows the new epochs of a run.

    epochs: of the whole training.  polls: whether other processes train, so that their files are read again and again;
    else the training calls `update`.
    on_checkpointed: called with the rows of epochs that a checkpoint covers, each row once. Epochs after it may be
    repeated after a crash and are passed on later.
    """

    def __init__(
        self, run: Store, epochs: int, on_checkpointed: Callable[[list[Row]], None], polls: bool = True
    ) -> None:
        self.run, self.epochs, self.on_checkpointed, self.polls = run, epochs, on_checkpointed, polls
        self.reader = MetricsReader(run)
        self.rows = self.reader.read()
        self.shown = len(self.rows)
        self.sent = 0
        self._started, self._ended = False, False
        self._checkpointed = 0
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._console = Console(stderr=True, highlight=False, quiet=is_quiet())
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("epochs", total=epochs, completed=self.shown)

    def __enter__(self) -> Follower:
        self._bar.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        self._wake.set()
        self._thread.join()
        self._bar.stop()

    def _follow(self) -> None:
        while not self._ended:
            self._wake.wait(poll_seconds(self.run, self.rows) if self.polls else None)
            self._wake.clear()
            self._try_to_show()
        self._try_to_show()  # the end may have come while the last epochs were shown

    def update(self, history: Sequence[Row], checkpointed: int | None) -> None:
        """An `OnProgress` of a training in this process. The thread shows it, because MLflow may take its time."""
        if checkpointed is None:
            self.shown = min(self.shown, len(history) - 1)  # an interrupted run goes on from its checkpoint
        else:
            self._checkpointed = checkpointed
        self.rows = list(history)
        self._wake.set()

    def _try_to_show(self) -> None:
        """Shows what is new; a failure of the storage is a warning, because the next time may succeed."""
        try:
            if self.polls:
                self.poll()
            else:
                self._show(self.rows)
        except UserError as error:
            log.warning("progress could not be read: %s", error.what)

    def poll(self) -> None:
        """Reads the run folder once, shows new epochs and passes on those that a checkpoint covers."""
        before, self.rows = self.rows, self.reader.read()
        if len(self.rows) > self.sent and (self.run.is_local or self._ended or self.rows != before):
            self._checkpointed = self._read_checkpointed()
        self._show(self.rows)

    def _show(self, rows: list[Row]) -> None:
        if len(rows) < self.shown:  # a worker was lost and training went back to the last checkpoint
            self.shown = len(rows)
        if len(rows) > self.shown and not self._started:
            self._show_start()
        for row in rows[self.shown :]:
            rest = (self.epochs - row["epoch"]) * sum(each["seconds"] for each in rows) / len(rows)
            self._console.print(epoch_line(row, self.epochs, rest), soft_wrap=True)
        self.shown = len(rows)
        self._bar.update(self._task, completed=self.shown)
        if min(len(rows), self._checkpointed) > self.sent:
            covered = rows[self.sent : self._checkpointed]
            self.on_checkpointed(covered)
            self.sent += len(covered)

    def _show_start(self) -> None:
        self._started = True
        start = self.run.read_json("startup.json") if self.run.exists("startup.json") else {}
        if start.get("command") == marks()[COMMAND]:  # not of an earlier command that was interrupted
            self._console.print(startup_line(start["seconds"]), soft_wrap=True)

    def _read_checkpointed(self) -> int:
        """Number of epochs that the last checkpoint covers."""
        try:
            found: dict[str, Any] = self.run.read_json(PROGRESS)
        except FileNotFoundError:
            return 0
        return int(found["checkpointed"])

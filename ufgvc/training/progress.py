"""What a person sees while training runs: one line an epoch, and a bar on a terminal."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ufgvc.core.errors import UserError
from ufgvc.core.startup import COMMAND, marks, startup_line
from ufgvc.core.storage import Store
from ufgvc.core.text import format_duration

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
Row = dict[str, float]


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
    """Reads a run's metrics.jsonl as the worker writes it, on a thread, and shows and passes on what is new.

    on_safe: called with rows whose checkpoint is on storage; what a crash may repeat is never passed on twice.
    """

    def __init__(self, run: Store, epochs: int, on_safe: Callable[[list[Row]], None]) -> None:
        self.run, self.epochs, self.on_safe = run, epochs, on_safe
        self.shown = len(self._rows())
        self.sent = 0
        self._started = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._console = Console(stderr=True, highlight=False)
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not sys.stderr.isatty(),
        )

    def __enter__(self) -> Follower:
        self._bar.start()
        self._task = self._bar.add_task("epochs", total=self.epochs, completed=self.shown)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        self._bar.stop()

    def _follow(self) -> None:
        while not self._end.wait(POLL_SECONDS):
            self._try_to_look()
        self._try_to_look()

    def _try_to_look(self) -> None:
        """Storage that fails once must not end this thread, or nothing later would be shown or sent."""
        try:
            self._look()
        except UserError as error:
            log.warning("progress could not be read: %s", error.what)

    def _look(self) -> None:
        rows = self._rows()
        if len(rows) < self.shown:  # a lost worker: training went back to the last checkpoint
            self.shown = len(rows)
        if len(rows) > self.shown and not self._started:
            self._show_start()
        for row in rows[self.shown :]:
            rest = (self.epochs - row["epoch"]) * sum(each["seconds"] for each in rows) / len(rows)
            self._console.print(epoch_line(row, self.epochs, rest), soft_wrap=True)
        self.shown = len(rows)
        self._bar.update(self._task, completed=self.shown)
        safe = self._checkpointed()
        if safe > self.sent:
            self.on_safe(rows[self.sent : safe])
            self.sent = min(safe, len(rows))

    def _show_start(self) -> None:
        self._started = True
        start = self.run.read_json("startup.json") if self.run.exists("startup.json") else {}
        if start.get("command") == marks()[COMMAND]:  # not that of a run that was cut off before
            self._console.print(startup_line(start["seconds"]), soft_wrap=True)

    def _rows(self) -> list[Row]:
        return read_metrics(self.run)

    def _checkpointed(self) -> int:
        try:
            found: dict[str, Any] = self.run.read_json("progress.json")
        except FileNotFoundError:
            return 0
        return int(found["checkpointed"])


def read_metrics(run: Store) -> list[Row]:
    """The epochs of a run, oldest first; [] if it has none yet."""
    try:
        text = run.read_text("metrics.jsonl")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines()]

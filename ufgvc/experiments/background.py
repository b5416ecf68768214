"""Calls that must not delay the loop that makes them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any


class InBackground:
    """Makes calls on a thread of its own: Ray Tune's loop must not wait for MLflow, or every trial that reports waits with it.

    Leaving the block waits for the calls that are left and raises what went wrong; after an error (a stop) the rest is dropped, because
    the next start records what it finds unrecorded.
    """

    def __init__(self, record: Callable[..., None]) -> None:
        self._record = record
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="record")
        self._calls: list[Future[None]] = []

    def __call__(self, *told: Any) -> None:
        self._calls.append(self._thread.submit(self._record, *told))

    def __getstate__(self) -> dict[str, Any]:
        """Tune writes its callbacks down with all that they hold; a thread cannot be, and nobody reads that copy."""
        return {"_record": self._record}

    def __enter__(self) -> InBackground:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=error is not None)
        if error is None:
            for call in self._calls:
                call.result()

"""A request that the service refuses, with its HTTP status and one message."""

from __future__ import annotations


class Refused(Exception):
    """status: HTTP status.  message: for whoever sent it.  retry_after: seconds; None: not to be tried again."""

    def __init__(self, status: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after

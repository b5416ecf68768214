"""Standard error while Ray's core starts, without the line in which it says that it has read its log level.

That line is written at the level that was in force before, straight to file descriptor 2, once in a process.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

STDERR = 2
LINE = b"Set ray log level from environment variable RAY_BACKEND_LOG_LEVEL"


@contextlib.contextmanager
def without_level_line() -> Iterator[None]:
    """Holds back within the block what this process writes to standard error, then writes it without Ray's line.

    A file holds it, not a pipe: child processes that were started within the block may write to it later.
    """
    if sys.stderr is None:  # it was closed, and its number may mean another file
        yield
        return
    saved = os.dup(STDERR)
    with tempfile.TemporaryFile(prefix="ufgvc-stderr-") as held:
        sys.stderr.flush()
        os.dup2(held.fileno(), STDERR)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(saved, STDERR)
            os.close(saved)
            _write_rest(held.fileno())


def _write_rest(held: int) -> None:
    """Copies the lines of a file, from its start, to standard error, without LINE."""
    with open(os.dup(held), "rb") as file, open(os.dup(STDERR), "wb") as target:
        file.seek(0)
        target.writelines(line for line in file if LINE not in line)

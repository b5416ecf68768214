"""A process that may do less than it could: the real causes of what a machine refuses."""

from __future__ import annotations

import contextlib
import os
import resource
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def soft_limit(kind: int, value: int) -> Iterator[None]:
    before, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (before, hard))


@contextlib.contextmanager
def files_left(count: int) -> Iterator[None]:
    """Within the block so many files can be opened."""
    free = [os.dup(0) for _ in range(count + 1)]
    for number in free:
        os.close(number)
    with soft_limit(resource.RLIMIT_NOFILE, max(free)):
        yield


@contextlib.contextmanager
def no_temporary_folder() -> Iterator[None]:
    """No file can have any content, so that `tempfile` can use no folder."""
    before, tempfile.tempdir = tempfile.tempdir, None
    try:
        with soft_limit(resource.RLIMIT_FSIZE, 0):
            yield
    finally:
        tempfile.tempdir = before

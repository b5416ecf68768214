"""What a machine has no more of: a folder for temporary files, open files, processes, threads, memory. Each is one
message, exit code 2.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
import ray.exceptions
import torch

from tests.command_line import refused
from tests.documented import ROOT
from tests.unit.limits import files_left, no_temporary_folder
from ufgvc.commands.fields import CommandSettings
from ufgvc.core.errors import MachineExhausted, first_line, user_error_in


class Nothing(CommandSettings):
    """No required setting."""


def _in_a_temporary_folder() -> None:
    with no_temporary_folder(), tempfile.TemporaryDirectory():
        pass


def _in_a_temporary_folder_of_matplotlib() -> None:
    """As libraries do: with an error of their own."""
    with no_temporary_folder():
        try:
            tempfile.mkdtemp()
        except OSError as error:
            raise OSError("needs a cache") from error


def _a_process() -> None:
    with files_left(3):
        subprocess.run([sys.executable, "-c", ""], check=True, stdout=subprocess.PIPE)


@pytest.mark.parametrize(
    ("work", "says"),
    [
        (_in_a_temporary_folder, "TMPDIR: no folder for temporary files can be written -> set it to a folder"),
        (_in_a_temporary_folder_of_matplotlib, "TMPDIR: no folder for temporary files can be written"),
        (_a_process, "this process has too many files open -> raise the limit with `ulimit -n 65536`"),
    ],
)
def test_a_command_says_what_there_is_no_more_of(
    work: Callable[[], None], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ufgvc.commands.mask.Mask", Nothing)
    monkeypatch.setattr("ufgvc.commands.mask.run", lambda settings, context: work())
    message = refused(capsys, "mask")
    assert message.startswith(f"ufgvc mask: {says}")
    assert message.count("TMPDIR") <= 2


THREAD = """
import resource, threading
from ufgvc import cli
from ufgvc.commands import sync
def work(settings, context):
    pages = int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(), resource.RLIM_INFINITY))
    [threading.Thread(target=threading.Event().wait, daemon=True).start() for _ in range(99)]
sync.run = work
raise SystemExit(cli.main(["sync", "--runs", "/tmp/x"]))
"""


def test_a_thread_that_cannot_be_started_is_one_message() -> None:
    done = subprocess.run([sys.executable, "-c", THREAD], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("ufgvc sync: this machine starts no further process or thread\n  -> end other")


@pytest.mark.parametrize(
    ("number", "says"), [(errno.ENOMEM, "has no memory left"), (errno.EAGAIN, "starts no further process")]
)
def test_a_process_that_cannot_be_started(number: int, says: str) -> None:
    found = user_error_in(OSError(number, os.strerror(number)), "s3://bucket/checkpoints")
    assert type(found) is MachineExhausted
    assert found.where is None
    assert found.what == f"this machine {says}" + (" or thread" if number == errno.EAGAIN else "")
    assert "TMPDIR" not in str(found)


@pytest.mark.parametrize(
    "work",
    [
        lambda: bytearray(1 << 60),
        lambda: np.empty(1 << 60, np.uint8),
        lambda: pa.allocate_buffer(1 << 60),
        lambda: torch.empty(1 << 60, dtype=torch.uint8),
        lambda: cv2.resize(np.zeros((4, 4), np.uint8), (1 << 21, 1 << 21)),
    ],
)
def test_memory_that_cannot_be_had(work: Callable[[], object]) -> None:
    with pytest.raises(Exception) as caught:  # each library has its own
        work()
    found = user_error_in(caught.value)
    assert type(found) is MachineExhausted
    assert found.what == "this machine has no memory left"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ray.exceptions.OutOfMemoryError("Task was killed"), "this machine has no memory left"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "the GPU has no memory left"),
        (BrokenProcessPool("A process in the process pool was terminated"), "a process of this command was ended"),
    ],
)
def test_a_process_that_was_ended_and_a_full_gpu(error: Exception, says: str) -> None:
    found = user_error_in(error)
    assert type(found) is MachineExhausted
    assert found.what.startswith(says)


@pytest.mark.parametrize("error", [MemoryError(), OSError(), RuntimeError("\n"), ValueError("  one\ntwo")])
def test_an_error_that_says_nothing_has_a_first_line(error: Exception) -> None:
    assert first_line(error) in ("MemoryError", "OSError", "RuntimeError", "one")


IMPORT = """
import resource
from ufgvc import cli
from ufgvc.commands import sync
def work(settings, context):
    pages = int(open("/proc/self/statm").read().split()[0])
    limit = pages * resource.getpagesize() + (300 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    import torch
sync.run = work
raise SystemExit(cli.main(["sync", "--runs", "/tmp/x"]))
"""


def test_a_library_for_which_there_is_no_memory_is_one_message() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stderr.startswith("ufgvc sync: this machine has no memory left\n  -> end other")
    assert done.returncode == 2


def test_other_errors_are_of_the_program() -> None:
    unmounted = ImportError("x.so: failed to map segment from shared object: Operation not permitted")  # noexec
    others = (RuntimeError("shapes"), cv2.error("bad argument"), ValueError("can't allocate memory"))
    for error in (unmounted, ImportError("no module"), *others):
        assert user_error_in(error) is None


def test_a_missing_file_is_no_missing_temporary_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "x").read_bytes()
    assert user_error_in(caught.value) is None


def test_a_full_disk_without_a_temporary_folder() -> None:
    with no_temporary_folder():
        found = user_error_in(OSError(errno.ENOSPC, "No space left on device"))
    assert found is not None
    assert "temporary files are in /tmp" in str(found)

"""Errors that the user can fix."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path


class UserError(Exception):
    """An error in the input or the settings: shown as one message without a traceback, exit code 2.

    what: what is wrong.  where: the file, key or rank it was found in.  fix: what to do about it.
    """

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  -> {self.fix}" if self.fix else text

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.where, self.fix)


class UnreadableFile(UserError):
    """One file or object that cannot be read (no rights, archived) although the storage works: a reader of many files
    can skip it.
    """


class MachineExhausted(UserError):
    """The machine has no memory, process or thread left: another attempt, or another machine, may have."""


class DamagedFile(UserError):
    """A file written by this program that is incomplete or was edited."""


def _rebuild(kind: type[UserError], what: str, where: str | None, fix: str | None) -> UserError:
    return kind(what, where=where, fix=fix)


_SPACE = "free some space, or give another place"
_RIGHTS = "change its rights, or give another place"
_DISK_ERRORS = {
    errno.ENOSPC: ("no space is left on this disk", _SPACE),
    errno.EDQUOT: ("the disk quota is used up", _SPACE),
    errno.EFBIG: (
        "the file would be larger than the disk or `ulimit -f` allows",
        "raise the limit, or give another place",
    ),
    errno.EROFS: ("the disk is read-only", "mount it for writing, or give another place"),
    errno.EACCES: ("access is refused", _RIGHTS),
    errno.EPERM: ("access is refused", _RIGHTS),
    errno.ENAMETOOLONG: ("the name is too long for this disk", "give a shorter name"),
    errno.EISDIR: ("is a folder, where a file is needed", "give a file"),
    errno.ENOTDIR: ("is a file, where a folder is needed", "give a folder"),
    errno.EEXIST: ("is a file, where a folder is needed", "give a folder, or remove the file"),
    errno.ELOOP: ("is a link that points back to itself", "correct the link"),
    errno.EIO: ("the disk cannot be read or written here (input/output error)", "check the disk"),
    errno.ESTALE: ("the network disk has lost this file (stale handle)", "mount it again"),
    errno.EMFILE: ("this process has too many files open", "raise the limit with `ulimit -n 65536`"),
    errno.ENFILE: ("this machine has too many files open", "raise the limit (fs.file-max)"),
    errno.ENOMEM: (
        "this machine has no memory left",
        "end other programs, or use fewer workers or smaller batches",
    ),
    errno.EAGAIN: (
        "this machine starts no further process or thread",
        "end other programs, use fewer workers, or raise the limit (`ulimit -u`, or that of the container)",
    ),
}
_TEMPORARY = "set it to a folder on a disk with space that can be written, e.g. `export TMPDIR=/scratch/tmp`"
_SINGLE_FILE = (errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP, errno.EIO, errno.ENAMETOOLONG)
_SQLITE_ERRORS = {
    "SQLITE_FULL": errno.ENOSPC,
    "SQLITE_READONLY": errno.EROFS,
    "SQLITE_CANTOPEN": errno.EACCES,
    "SQLITE_IOERR": errno.EIO,
}
# What errors of Python, torch, OpenCV and the loader of libraries say, and the classes of others, by the number that
# they mean.
_SAID = {
    r"can't start new thread": errno.EAGAIN,
    r"can't allocate memory|Insufficient memory": errno.ENOMEM,
    r"failed to map segment from shared object($|: Cannot allocate)": errno.ENOMEM,
}
_CLASSES = {"builtins.MemoryError": errno.ENOMEM, "ray.exceptions.OutOfMemoryError": errno.ENOMEM}
_NO_GPU_MEMORY = "CUDA out of memory"
_ENDED = "concurrent.futures.process.BrokenProcessPool"
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_MACHINE = (errno.ENOMEM, errno.EAGAIN)
_CLEAR_WITHOUT_PATH = (*_DISK, errno.EMFILE, errno.ENFILE)


def disk_error(error: BaseException, where: str | None = None, reading: bool = False) -> UserError | None:
    """The UserError for an error of the disk, with its path and a fix, and for a machine that has no more memory,
    processes or files; None if `error` is something else.

    where: the path, if the error does not name it.  reading: a single file was read; UnreadableFile if others may be
    readable.
    """
    if "No usable temporary directory" in str(getattr(error, "strerror", "")):  # of the module tempfile
        return UserError("no folder for temporary files can be written", where="TMPDIR", fix=_TEMPORARY)
    if isinstance(error, RuntimeError) and _NO_GPU_MEMORY in str(error):
        what = "the GPU has no memory left"
        return MachineExhausted(what, fix="end other programs on it, use smaller batches, or compute on the CPU")
    if _ENDED in _classes(error):
        what = "a process of this command was ended from outside, most often for want of memory"
        return MachineExhausted(what, fix=_DISK_ERRORS[errno.ENOMEM][1])
    number = _errno(error)
    if number not in _DISK_ERRORS:
        return None
    if number in _MACHINE:
        return MachineExhausted(_DISK_ERRORS[number][0], fix=_DISK_ERRORS[number][1])
    filename = getattr(error, "filename", None)
    named = os.fsdecode(filename) if isinstance(filename, str | bytes) else where
    if named is None and number not in _CLEAR_WITHOUT_PATH:  # a port, a process: no file
        return None
    what, fix = _DISK_ERRORS[number]
    if number == errno.ENOTDIR and named:  # the file itself, not what was looked for below it
        named = next((str(path) for path in (Path(named), *Path(named).parents) if path.is_file()), named)
    if named is None and number in _DISK:
        fix += f"; temporary files are in {_temporary_folder()} (TMPDIR moves them)"
    return (UnreadableFile if reading and number in _SINGLE_FILE else UserError)(what, where=named, fix=fix)


def _temporary_folder() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:  # on a full disk, where none can be used
        return "/tmp"


def _errno(error: BaseException) -> int | None:
    """The errno of an error, also of SQLite's errors, of memory, a process or a thread that cannot be had, and of
    errors of libraries in Rust (safetensors), which only print it.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if known := _classes(error) & _CLASSES.keys():
        return _CLASSES[known.pop()]
    if isinstance(error, RuntimeError | ImportError | OSError) or type(error).__module__ == "cv2":
        return next((number for text, number in _SAID.items() if re.search(text, str(error))), None)
    name = getattr(error, "sqlite_errorname", None)
    if isinstance(name, str):
        return next((number for start, number in _SQLITE_ERRORS.items() if name.startswith(start)), None)
    printed = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(printed[1]) if printed else None


def _classes(error: BaseException) -> set[str]:
    """Full names of the classes of an error: those of Ray are not imported here."""
    return {f"{each.__module__}.{each.__qualname__}" for each in type(error).__mro__}


def first_line(error: BaseException) -> str:
    """The first line of what an error says; the name of its class if it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextlib.contextmanager
def disk_errors(where: str | os.PathLike[str]) -> Iterator[None]:
    """Turns errors of the disk within the block into UserErrors, at `where` if the error names no path."""
    try:
        yield
    except Exception as error:
        refused = disk_error(error, str(where))
        if refused is None:
            raise
        raise refused from error


def user_error_in(error: BaseException | None, where: str | None = None) -> UserError | None:
    """The UserError that caused `error`, however deeply Ray has wrapped it; else that of a disk error; else None.

    where: the path to name if a disk error names none.
    """
    seen: set[int] = set()
    queue: list[tuple[BaseException | None, bool]] = [(error, True)]
    refused: UserError | None = None
    while queue:
        current, is_cause = queue.pop()
        if current is None or id(current) in seen:
            continue
        if isinstance(current, UserError):
            # Ray raises an object that is both its error and ours, whose text is a traceback; its cause is ours alone.
            cause = getattr(current, "cause", None)
            return cause if isinstance(cause, UserError) else current
        # A disk error that was only being handled when another error was raised is not the cause.
        if is_cause and refused is None:
            refused = disk_error(current, where if _errno(current) in _CLEAR_WITHOUT_PATH else None)
        seen.add(id(current))
        queue.append((current.__context__, False))
        wrapped = [current.__cause__, getattr(current, "cause", None), getattr(current, "controller_failure", None)]
        wrapped += [*getattr(current, "worker_failures", {}).values(), getattr(current, "training_failed_error", None)]
        queue += [(each, is_cause) for each in wrapped]
    return refused

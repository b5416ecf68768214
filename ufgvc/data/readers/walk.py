"""Every file of a folder or bucket, and what is wrong with its name or its rights."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs

from ufgvc.core.storage import Store
from ufgvc.core.text import is_utf8

# Relative path, bytes, nanoseconds since 1970 (0 if unknown), and what is wrong, or nothing.
File = tuple[str, int, int, str]


def list_files(store: Store) -> Iterator[File]:
    """The files below `store`, in any order. Folders that may not be read are among them, with their problem."""
    return _walk_local(store) if store.is_local else _list_remote(store)


def _walk_local(store: Store) -> Iterator[File]:
    """pyarrow fails on names that are not UTF-8 and follows cycles of links."""
    root = store.path
    if not os.path.isdir(root):
        return
    outer = frozenset((status.st_dev, status.st_ino) for status in map(os.stat, Path(root).resolve().parents))
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [(root, outer)]
    while pending:
        folder, above = pending.pop()
        status = os.stat(folder)
        here = above | {(status.st_dev, status.st_ino)}
        for entry in _entries(folder):
            if isinstance(entry, OSError):
                yield _relative(folder, root), 0, 0, f"the folder may not be read ({entry.strerror})"
                continue
            path = _relative(entry.path, root)
            if not is_utf8(entry.name):
                yield path, 0, 0, "its name is not UTF-8 text: rename it"
                continue
            try:
                status = entry.stat()
            except OSError as error:
                yield (
                    path,
                    0,
                    0,
                    "is a broken link" if entry.is_symlink() else f"may not be read ({error.strerror})",
                )
                continue
            if entry.is_file():
                yield path, status.st_size, status.st_mtime_ns, ""
            elif not entry.is_dir():
                yield path, 0, 0, "is not a regular file"
            elif (status.st_dev, status.st_ino) in here:
                yield path, 0, 0, "is a link to a folder above it"
            else:
                pending.append((entry.path, here))


def _entries(folder: str) -> Iterator[os.DirEntry[str] | OSError]:
    """What is in a folder; an error in its place, or at its end."""
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        yield error


def _relative(path: str, root: str) -> str:
    """The relative path as valid text: bytes that are not UTF-8 become \\xNN."""
    return os.fsencode(os.path.relpath(path, root)).decode("utf-8", "backslashreplace")


def _list_remote(store: Store) -> Iterator[File]:
    store.list(recursive=False)  # raises UserError if the storage fails
    handler, everything = store.s3_handler(), pafs.FileSelector(store.path, recursive=True, allow_not_found=True)
    for info in handler.walk(store.path) if handler else store.fs.get_file_info(everything):
        if info.type != pafs.FileType.File:
            continue
        path = info.path[len(store.path) :].removeprefix("/")
        clean = posixpath.normpath(path) == path and not path.startswith("../")
        problem = "" if clean else "its key has an empty part, `.` or `..` between slashes: rename it"
        yield path, int(info.size or 0), int(info.mtime_ns or 0), problem

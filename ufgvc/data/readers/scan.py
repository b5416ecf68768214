"""The files of a folder or bucket, without system files, and the photographs among them.

`ingest` and `predict` both use it, so that they accept the same photographs.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from ufgvc.core.errors import UserError
from ufgvc.core.storage import Store, open_store
from ufgvc.data.file_types import (
    HEAD_BYTES,
    IMAGE_EXTENSIONS,
    NON_IMAGE_EXTENSIONS,
    READABLE_TYPES,
    UNSUPPORTED_EXTENSIONS,
    detect_file_type,
    file_extension,
)
from ufgvc.data.readers.file_table import FileTable, pack_files
from ufgvc.data.readers.walk import list_files

# Files of operating systems, file servers and sharing tools, in lower case.
_SYSTEM_FOLDERS = frozenset(
    ("@eadir", "#recycle", "#snapshot", "@recycle", "$recycle.bin", "recycler", "lost+found", "__macosx", "__pycache__")
) | {"system volume information", "network trash folder", "temporary items"}
_SYSTEM_FILES = frozenset(("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"))
_UNFINISHED = ("~", ".part", ".crdownload", ".download", ".tmp", ".temp", ".bak")
# Files that are not opened to find out whether they are images, because there may be very many of them.
_NOT_OPENED = frozenset(
    [
        ".txt",
        ".csv",
        ".tsv",
        ".json",
        ".jsonl",
        ".xml",
        ".yaml",
        ".yml",
        ".toml",
        ".ini",
        ".md",
        ".rst",
        ".html",
        ".htm",
        ".names",
        ".data",
        ".labels",
        ".cache",
        ".log",
        ".py",
        ".ipynb",
        ".parquet",
        ".xls",
        ".xlsx",
        ".ods",
        ".doc",
        ".docx",
        ".npy",
        ".npz",
        ".pt",
        ".pth",
        ".onnx",
        ".mat",
        ".zip",
        ".gz",
        ".tgz",
        ".tar",
        ".7z",
        ".rar",
        ".aae",
        ".xmp",
        ".thm",
        ".mp3",
        ".wav",
        ".db",
        ".sqlite",
    ]
)
_READERS = 8
_FILE_EXTENSIONS = (
    ".csv",
    ".parquet",
    ".json",
)  # never those of a folder, so a missing one is reported as a missing file


@dataclass(frozen=True)
class Rejected:
    """An input that is not used, with the reason as text.  path: relative to the folder."""

    path: str
    reason: str


@dataclass(frozen=True)
class Scan:
    """The files of a folder, without system files.

    sizes: in bytes, by relative path, sorted.  modified: nanoseconds since 1970, in the same order; 0 if unknown.
    unusable: names that cannot be opened (broken links, names that are not UTF-8), with the reason.
    """

    store: Store
    sizes: FileTable
    modified: FileTable
    unusable: list[Rejected] = field(default_factory=list)


@dataclass(frozen=True)
class Photographs:
    """The photographs of a scan.

    sizes: in bytes, by path.  rejected: images of types that cannot be read.  others: files of other types.
    left_out: backup copies and raw files next to a photograph, with the reason.
    """

    sizes: FileTable
    rejected: list[Rejected]
    left_out: list[Rejected]
    others: list[str]


def scan(store: Store, flag: str = "--source", without: Store | None = None) -> Scan:
    """Lists every file below `store`. UserError if there is none.

    flag: the flag with this folder, for the message.  without: a folder below `store` whose files are ignored.
    """
    unusable: list[Rejected] = []
    outside = f"{without.path[len(store.path) :].strip('/')}/" if without and _is_below(without, store) else None

    def usable() -> Iterator[tuple[str, int, int]]:
        for path, size, modified, problem in list_files(store):
            if _is_system(path) or (outside and path.startswith(outside)):
                continue
            if problem:
                unusable.append(Rejected(path, problem))
            else:
                yield path, size, modified

    sizes, modified = pack_files(usable())
    if not len(sizes) and not unusable:
        raise UserError(_why_empty(store), where=store.uri, fix=f"check {flag}")
    return Scan(store, sizes, modified, sorted(unusable, key=lambda bad: bad.path))


def find_photographs(files: Scan) -> Photographs:
    """Finds the photographs by their extensions, and by their first bytes if the extension is unknown."""
    chosen = np.zeros(len(files.sizes), bool)
    rejected: list[Rejected] = []
    left_out: list[Rejected] = []
    others: list[str] = []
    unknown: dict[str, int] = {}
    unsupported: dict[str, str] = {}
    for row, path in enumerate(files.sizes):
        extension = file_extension(path)
        if path.lower().rstrip().endswith(_UNFINISHED):
            left_out.append(Rejected(path, "is a backup copy or an incomplete download by its name"))
        elif extension in IMAGE_EXTENSIONS:
            chosen[row] = True
        elif extension in UNSUPPORTED_EXTENSIONS:
            unsupported[path] = extension
        elif extension in _NOT_OPENED:
            others.append(path)
        else:
            unknown[path] = row
    with ThreadPoolExecutor(_READERS) as pool:
        for path, kind in zip(unknown, pool.map(lambda path: _sniff(files.store, path), unknown), strict=True):
            if kind in READABLE_TYPES:
                chosen[unknown[path]] = True
            elif kind:
                unsupported[path] = f".{kind}"
            else:
                others.append(path)
    sizes = files.sizes.select(chosen)
    used = _stems(unsupported) and _stems(unsupported).intersection(posixpath.splitext(path)[0] for path in sizes)
    for path, extension in unsupported.items():
        reason = UNSUPPORTED_EXTENSIONS[extension]
        if posixpath.splitext(path)[0] in used:
            reason = f"{reason.partition(':')[0]}; the photograph of the same name is used"
            left_out.append(Rejected(path, reason))
        else:
            (left_out if extension in NON_IMAGE_EXTENSIONS else rejected).append(Rejected(path, reason))
    for bad in files.unusable:
        (rejected if file_extension(bad.path) in IMAGE_EXTENSIONS else left_out).append(bad)
    return Photographs(sizes, rejected, left_out, sorted(others))


def _stems(paths: Iterable[str]) -> set[str]:
    return {posixpath.splitext(path)[0] for path in paths}


def _is_below(inner: Store, outer: Store) -> bool:
    return inner.fs.equals(outer.fs) and inner.path.startswith(f"{outer.path.rstrip('/')}/")


def _is_system(path: str) -> bool:
    parts = path.lower().split("/")
    return any(part.startswith(".") or part in _SYSTEM_FOLDERS for part in parts) or parts[-1] in _SYSTEM_FILES


def _sniff(store: Store, path: str) -> str | None:
    with store.open_input(path) as file:
        return detect_file_type(file.read(HEAD_BYTES))


def _why_empty(store: Store) -> str:
    if not store.is_local:
        return "contains no files"
    if os.path.isdir(store.path):
        return "is an empty folder"
    return "is a file, and a folder is needed" if os.path.exists(store.path) else "there is no such file or folder"


def split_uri(uri: str) -> tuple[str, str | None]:
    """(folder, file name) of a URI that may be a folder or a file; the file name is None for a folder."""
    store = open_store(uri)
    if not store.is_file() and (file_extension(uri) not in _FILE_EXTENSIONS or store.exists()):
        return uri, None
    folder, slash, name = uri.rstrip("/").rpartition("/")
    return folder or slash or ".", posixpath.basename(name)

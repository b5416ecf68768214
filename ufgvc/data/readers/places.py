"""A place on the command line that may be a folder or one file in it."""

from __future__ import annotations

import posixpath

from ufgvc.core.storage import open_store
from ufgvc.data.file_types import file_extension

_FILES = (".csv", ".parquet", ".json")  # what nobody calls a folder: a missing one is reported as a missing file


def split_place(uri: str) -> tuple[str, str | None]:
    """(folder, file) of a place: a file has the folder that it lies in; a folder has no file."""
    store = open_store(uri)
    if not store.is_file() and (file_extension(uri) not in _FILES or store.exists()):
        return uri, None
    folder, slash, name = uri.rstrip("/").rpartition("/")
    return folder or slash or ".", posixpath.basename(name)

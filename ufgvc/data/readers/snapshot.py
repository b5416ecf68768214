"""Snapshots of a source: `ingest` compares them to find out whether any file has changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from ufgvc.core.storage import Store, open_store
from ufgvc.data.file_types import file_extension
from ufgvc.data.readers.box_classes import is_names_file
from ufgvc.data.readers.boxes import parent_folder
from ufgvc.data.readers.scan import scan, split_uri

_TEXT_EXTENSIONS = (".txt", ".csv", ".xml", ".json", ".yaml", ".yml", ".names", ".labels")
_MAX_HASHED = 16 << 20  # bytes: of a larger text file only size and time are compared
_MAX_REMOTE = 2000  # text files that are read from remote storage; of more only sizes and times are compared
_READERS = 16


def source_state(uri: str, without: Store | None = None) -> Iterator[list[str | int]]:
    """[path, bytes, SHA-256 or modification time] of every file of a source, one after the other.

    Small text files (labels, boxes) are hashed, so that any correction is found. The state of a table is that of its
    folder, because it lists photographs there.  without: a folder that is ignored, for a data set inside its own
    source.
    """
    folder, file = split_uri(uri)
    store = open_store(folder)
    files = scan(store, without=without)
    texts = [
        path for path, size in files.sizes.items() if file_extension(path) in _TEXT_EXTENSIONS and size <= _MAX_HASHED
    ]
    return _state(
        store,
        files.sizes,
        files.modified.numbers,
        texts if store.is_local or len(texts) <= _MAX_REMOTE else [file] if file else [],
    )


def boxes_state(uri: str) -> list[list[str | int]]:
    """The same for a folder or file of boxes, with the files of class names in its parent folder."""
    folder, file = split_uri(uri)
    if file:
        store = open_store(folder)
        return [*_state(store, {file: store.size(file)}, [0], [file])] if store.is_file(file) else []
    store = open_store(uri)
    parent = parent_folder(store)
    names = [name for name in parent.list(recursive=False) if is_names_file(name)] if parent else []
    above = _state(parent, {name: parent.size(name) for name in names}, [0] * len(names), names) if parent else []
    return [*source_state(uri), *above]


def _state(
    store: Store, sizes: Mapping[str, int], modified: Iterable[int], texts: list[str]
) -> Iterator[list[str | int]]:
    with ThreadPoolExecutor(_READERS) as pool:
        hashes = dict(
            zip(texts, pool.map(lambda path: hashlib.sha256(store.read_bytes(path)).hexdigest(), texts), strict=True)
        )
    for (path, size), time in zip(sizes.items(), modified, strict=True):
        yield [path, size, hashes.get(path) or int(time)]

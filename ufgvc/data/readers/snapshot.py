"""What a source looks like now, as a short text: `ingest` compares it with the last time to know whether anything has changed."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

from ufgvc.core.storage import Store, open_store
from ufgvc.data.file_types import file_extension
from ufgvc.data.readers.box_classes import is_names_file
from ufgvc.data.readers.boxes import parent_folder
from ufgvc.data.readers.scan import scan, split_uri

_TEXTS = (".txt", ".csv", ".xml", ".json", ".yaml", ".yml", ".names", ".labels")
_SMALL = 16 << 20  # bytes: a larger text counts as changed when its time of writing changes
_MANY = 2000  # texts on remote storage: reading more would take longer than their times are worth
_READERS = 16


def source_state(uri: str, without: Store | None = None) -> list[list[str | int]]:
    """[path, bytes, hash or time of writing] of every file of a source, from one listing.

    Small texts (labels, boxes) are hashed, so that one corrected digit counts whatever the clocks say. A table stands for its folder,
    since it names photographs there.  without: a place whose files do not count, for a data set that is written into its own source.
    """
    folder, file = split_uri(uri)
    store = open_store(folder)
    files = scan(store, without=without)
    texts = [path for path, size in files.sizes.items() if file_extension(path) in _TEXTS and size <= _SMALL]
    return _state(
        store, files.sizes, files.modified, texts if store.is_local or len(texts) <= _MANY else [file] if file else []
    )


def boxes_state(uri: str) -> list[list[str | int]]:
    """The same for a place with boxes, and for the class names in the folder above it."""
    folder, file = split_uri(uri)
    if file:
        store = open_store(folder)
        return _state(store, {file: store.size(file)}, {}, [file]) if store.is_file(file) else []
    store = open_store(uri)
    parent = parent_folder(store)
    names = [name for name in parent.list(recursive=False) if is_names_file(name)] if parent else []
    above = _state(parent, {name: parent.size(name) for name in names}, {}, names) if parent else []
    return [*source_state(uri), *above]


def _state(store: Store, sizes: dict[str, int], modified: dict[str, int], texts: list[str]) -> list[list[str | int]]:
    with ThreadPoolExecutor(_READERS) as pool:
        hashes = dict(
            zip(texts, pool.map(lambda path: hashlib.sha256(store.read_bytes(path)).hexdigest(), texts), strict=True)
        )
    return [[path, size, hashes.get(path) or modified.get(path, 0)] for path, size in sizes.items()]

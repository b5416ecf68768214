"""Where the photographs of a source are, and what is known about each. One file a layout; `list_source` chooses."""

from __future__ import annotations

import posixpath
from typing import Literal

from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store
from ufgvc.data.readers import folder, manifest, ufg
from ufgvc.data.readers.listing import Listing, scan

ReaderName = Literal["auto", "ufg", "folder", "manifest"]


def list_source(source: str, reader: ReaderName = "auto", label_base: str | int = "auto") -> Listing:
    """The photographs of a source. auto: a .csv or .parquet is a manifest; else the first layout that fits, in the order of READERS."""
    table = posixpath.basename(source) if source.lower().endswith(manifest.ENDINGS) else None
    store = open_store(posixpath.dirname(source) or ".") if table else open_store(source)
    files = scan(store)
    if table is None:
        table = manifest.table_in(files)
    elif reader == "auto":
        reader = "manifest"
    if reader == "auto":
        reader = "ufg" if ufg.fits(files) else "manifest" if table else "folder"
    if reader == "manifest":
        if table is None:
            raise UserError("holds no manifest", where=source, fix="give the .csv or .parquet file itself as --source")
        listing = manifest.read(store, files, table, label_base)
    elif reader == "ufg":
        if not any(path.startswith("images/") for path in files):
            raise UserError("has no folder images/", where=source, fix="give the folder that holds images/ and anno/, or another --reader")
        listing = ufg.read(store, files, label_base)
    else:
        listing = folder.read(store, files)
    if not listing.photos and not listing.rejected:
        fix = "expected images/ with anno/*.txt, or <split>/<class>/<file>, or <class>/<file>, or a .csv or .parquet manifest"
        raise UserError("holds no photographs in a layout that is known", where=source, fix=fix)
    return listing

"""Where the photographs of a source are, and what is known about each. One file a layout; `list_source` chooses."""

from __future__ import annotations

from typing import Literal

from ufgvc.core.errors import UserError
from ufgvc.core.storage import Store, open_store
from ufgvc.data.file_types import file_extension
from ufgvc.data.readers import folder, manifest, ufg
from ufgvc.data.readers.listing import Listing, Source, add_unused
from ufgvc.data.readers.places import split_place
from ufgvc.data.readers.scan import find_photographs, scan

ReaderName = Literal["auto", "ufg", "folder", "manifest"]


def list_source(
    source: str, reader: ReaderName = "auto", label_base: str | int = "auto", without: Store | None = None
) -> Listing:
    """The photographs of a source. auto: a .csv or .parquet is a manifest; else the first layout that fits: released, table, folders.

    without: a place below the source whose files are not part of it.
    """
    folder_uri, table = split_place(source)
    if table and file_extension(table) not in manifest.ENDINGS:
        fix = "give a folder, or a .csv or .parquet table; unpack an archive first"
        raise UserError("is one file, not a folder or table of photographs", where=source, fix=fix)
    files = scan(open_store(folder_uri), without=without)
    if table and table not in files.sizes:
        raise UserError("there is no such file", where=source, fix="check --source")
    found = Source(files, find_photographs(files))
    if reader == "auto":
        table = table or (None if ufg.fits(found) else manifest.table_in(found))
        reader = "manifest" if table else "ufg" if ufg.fits(found) else "folder"
    elif reader == "manifest":
        table = table or manifest.table_in(found)
        if table is None:
            raise UserError("holds no manifest", where=source, fix="give the .csv or .parquet file itself as --source")
    if reader == "manifest" and table:
        listing = manifest.read(found, table, label_base)
    elif reader == "ufg":
        listing = ufg.read(found, label_base)
    else:
        listing = folder.read(found)
    add_unused(listing, found)
    if not listing.photos and not listing.rejected:
        fix = "expected images/ with anno/*.txt, or <split>/<class>/<file>, or <class>/<file>, or a .csv or .parquet manifest"
        raise UserError("holds no photographs in a layout that is known", where=source, fix=fix)
    return listing

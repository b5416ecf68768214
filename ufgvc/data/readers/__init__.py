"""Readers list the photographs of a source with their labels and splits. One module a layout; `list_source` chooses."""

from __future__ import annotations

from typing import Literal

from ufgvc.core.errors import UserError
from ufgvc.core.region_names import PAPER_REGIONS
from ufgvc.core.storage import Store, open_store
from ufgvc.data.file_types import file_extension
from ufgvc.data.readers import folder, manifest, ufg
from ufgvc.data.readers.listing import Listing, Source, list_unused_files
from ufgvc.data.readers.scan import find_photographs, scan, split_uri

ReaderName = Literal["auto", "ufg", "folder", "manifest"]


def list_source(
    source: str,
    reader: ReaderName = "auto",
    label_base: str | int = "auto",
    without: Store | None = None,
    regions: tuple[str, ...] = PAPER_REGIONS,
) -> Listing:
    """Lists the photographs of a source. UserError if there are none in a known layout.

    reader: auto takes a .csv or .parquet file as a manifest, and else the first layout that fits: ufg, manifest,
    folder.
    without: a folder below the source whose files are ignored.  regions: names that boxes may have; a classes.txt with
    these does not list the cultivars.
    """
    folder_uri, table = split_uri(source)
    if table and file_extension(table) not in manifest.EXTENSIONS:
        fix = "give a folder, or a .csv or .parquet table; unpack an archive first"
        raise UserError("is one file, not a folder or table of photographs", where=source, fix=fix)
    files = scan(open_store(folder_uri), without=without)
    if table and table not in files.sizes:
        raise UserError("there is no such file", where=source, fix="check --source")
    found = Source(files, find_photographs(files), regions)
    if reader == "auto":
        table = table or (None if ufg.fits(found) else manifest.find_table(found))
        reader = "manifest" if table else "ufg" if ufg.fits(found) else "folder"
    elif reader == "manifest":
        table = table or manifest.find_table(found)
        if table is None:
            raise UserError(
                "contains no manifest", where=source, fix="give the .csv or .parquet file itself as --source"
            )
    if reader == "manifest" and table:
        listing = manifest.read(found, table, label_base)
    elif reader == "ufg":
        listing = ufg.read(found, label_base)
    else:
        listing = folder.read(found)
    list_unused_files(listing, found)
    if not listing.photos and not listing.rejected:
        layouts = "images/ with anno/*.txt, <split>/<class>/<file>, <class>/<file>, or a .csv or .parquet manifest"
        fix = f"expected {layouts}"
        raise UserError("contains no photographs in a known layout", where=source, fix=fix)
    return listing

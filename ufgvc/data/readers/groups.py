"""Reads which plant (or photograph) each leaf comes from: a table that is given with `--groups`."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from ufgvc.core.errors import UserError
from ufgvc.core.storage import open_store
from ufgvc.data.readers.listing import Listing, Rejected
from ufgvc.data.readers.manifest import load_table, to_texts
from ufgvc.data.readers.matching import PathMatcher
from ufgvc.data.readers.photos import NO_GROUP
from ufgvc.data.readers.scan import split_uri

NAME_COLUMNS = ("path", "file", "image", "name")
GROUP_COLUMNS = ("group", "plant", "photograph")


def read_groups(uri: str, listing: Listing) -> None:
    """Sets the group of the photographs that a CSV or Parquet table lists, by path or file name.

    Photographs that it does not list keep theirs. Rows without a photograph are added to the rejected ones. UserError
    for a table without such columns, and for a photograph with two groups.
    """
    folder, file = split_uri(uri)
    if not file:
        raise UserError("is not a table", where=uri, fix="give a .csv or .parquet file, one row for each photograph")
    where = f"{open_store(folder).uri}/{file}"
    table = load_table(open_store(folder), file, "--groups")
    own = [name for name in listing.unused if f"{listing.store.uri}/{name}" == where]
    listing.unused = [name for name in listing.unused if name not in own]
    listing.used += own
    names, groups = (_find_column(table, known, where) for known in (NAME_COLUMNS, GROUP_COLUMNS))
    photos, files = listing.photos, listing.photos.files
    row_of, group_of = photos.first_rows(), np.full(len(files), NO_GROUP, photos.groups.dtype)
    matcher = PathMatcher(photos.paths(), names=[name for name in names if name is not None])
    for name, group in zip(names, groups, strict=True):
        if name is None or group is None:
            continue
        found = [name] if name in files and row_of[files.row(name)] >= 0 else matcher.find(name)
        if len(found) != 1:
            reason = f"{len(found)} photographs have this name" if found else "there is no such photograph"
            listing.rejected.append(Rejected(name, f"{reason}, but {where} lists it"))
            continue
        at, number = files.row(found[0]), photos.group_number(group)
        before = {int(group_of[at]), int(photos.groups[row_of[at]])} - {NO_GROUP, number}
        if before:
            what = f"gives {found[0]} the groups {photos.group_names[before.pop()]} and {group}"
            raise UserError(what, where=where, fix="give each photograph one group")
        group_of[at] = number
    given = group_of[photos.at]  # also of a file that the source lists twice
    photos.groups = np.where(given == NO_GROUP, photos.groups, given)


def _find_column(table: pa.Table, known: tuple[str, ...], where: str) -> list[str | None]:
    """The cells of the only column with one of the names."""
    found = [name for name in table.column_names if name in known]
    if len(found) != 1:
        what = f"needs one column called {' or '.join(known)}, and has {', '.join(table.column_names)}"
        raise UserError(what, where=where, fix="rename the columns")
    return to_texts(table[found[0]])

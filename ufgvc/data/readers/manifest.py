"""A CSV or Parquet table of photographs: path, label or cultivar, and if known split and group (plant)."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv

from ufgvc.core.errors import UserError
from ufgvc.core.storage import Store, read_parquet_file
from ufgvc.data.readers.listing import (
    LABEL_WITHOUT_CLASS,
    Listing,
    Photo,
    Rejected,
    image_ids,
    in_natural_order,
    label_base,
    names_of_labels,
    read_classes,
    split_of,
)

ENDINGS = (".csv", ".parquet")
COLUMNS = ("path", "label", "cultivar", "split", "group")


def table_in(files: dict[str, int]) -> str | None:
    """The table at the top of a folder: manifest.csv, manifest.parquet, or the only CSV or Parquet file."""
    found = [path for path in files if "/" not in path and path.lower().endswith(ENDINGS)]
    named = [path for path in found if posixpath.splitext(path)[0] == "manifest"]
    return (named or found)[0] if len(named or found) == 1 else None


def read(store: Store, files: dict[str, int], table_name: str, base_setting: str | int) -> Listing:
    """Photographs that the table names, by paths relative to the table's folder. UserError if a needed column is missing."""
    where = f"{store.uri}/{table_name}"
    table = _load(store, table_name, where)
    if "path" not in table.column_names or not {"label", "cultivar"} & set(table.column_names):
        has = ", ".join(table.column_names)
        raise UserError(f"needs the columns path and label (or cultivar), and has {has}", where=where, fix="rename the columns")
    columns = {name: _texts(table[name]) for name in COLUMNS if name in table.column_names}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    listing = Listing(store, [], ())
    kept = _present(rows, files, listing)
    labels, cultivars = columns.get("label"), columns.get("cultivar")
    numeric = labels is not None and all(label is not None and label.isdecimal() for label in labels)
    key = "label" if labels is not None and (numeric or cultivars is None) else "cultivar"
    listing.classes, base = _classes(kept, key, numeric and key == "label", read_classes(store), base_setting, where)
    numbers = {name: number for number, name in enumerate(listing.classes)}
    ids = image_ids(path for path, _ in kept)
    for path, row in kept:
        given = row[key]
        label = (int(given) - base if key == "label" and numeric else numbers.get(given, -1)) if given is not None else -1
        if not 0 <= label < len(listing.classes):
            reason = "has no label" if given is None else LABEL_WITHOUT_CLASS.format(label=given)
            listing.rejected.append(Rejected(path, reason))
            continue
        split = row.get("split")
        if split is not None and split_of(split) is None:
            raise UserError(f"calls the split of {path} {split!r}", where=where, fix="write train or test")
        photo = Photo(path, files[path], ids[path], listing.classes[label], label, split_of(split) if split else None, row.get("group"))
        listing.photos.append(photo)
    return listing


def _load(store: Store, name: str, where: str) -> pa.Table:
    try:
        if name.lower().endswith(".parquet"):
            return read_parquet_file(store, name)
        with store.open_input(name) as file:
            return pacsv.read_csv(file, convert_options=pacsv.ConvertOptions(column_types=dict.fromkeys(COLUMNS, pa.string())))
    except FileNotFoundError:
        raise UserError("there is no such file", where=where, fix="check --source") from None
    except pa.ArrowInvalid as error:
        raise UserError(f"cannot be read as a table ({error})", where=where, fix="mend the file") from None


def _texts(column: pa.ChunkedArray) -> list[str | None]:
    """Cells as text without surrounding blanks; empty cells are None; 3.0 is 3."""
    texts = []
    for value in column.to_pylist():
        text = "" if value is None else str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
        texts.append(text or None)
    return texts


def _present(rows: list[dict[str, Any]], files: dict[str, int], listing: Listing) -> list[tuple[str, dict[str, Any]]]:
    """Rows whose photograph lies below the table's folder; the others are rejected."""
    kept: dict[tuple[str, str | None], dict[str, Any]] = {}
    for number, row in enumerate(rows, 1):
        given = row["path"]
        path = posixpath.normpath(given) if given else ""
        if not given:
            listing.rejected.append(Rejected(f"row {number}", "has no path"))
        elif path.startswith(("/", "../")) or "://" in given:
            listing.rejected.append(Rejected(given, "lies outside the manifest's folder; paths are relative to it"))
        elif path not in files:
            listing.rejected.append(Rejected(path, "the manifest names it, but it is not there"))
        elif (first := kept.setdefault((path, row.get("split")), row)) is not row and first != row:
            listing.rejected.append(Rejected(path, f"row {number} contradicts an earlier row for the same photograph"))
    return [(path, row) for (path, _), row in kept.items()]


def _classes(
    rows: list[tuple[str, dict[str, Any]]], key: str, numeric: bool, given: tuple[str, ...] | None, setting: str | int, where: str
) -> tuple[tuple[str, ...], int]:
    """Class names in label order, and where the labels start."""
    if not numeric:
        return given or in_natural_order(row[key] for _, row in rows if row[key] is not None), 0
    names: dict[int, set[str]] = defaultdict(set)
    for _, row in rows:
        if row.get("cultivar") is not None:
            names[int(row["label"])].add(row["cultivar"])
    for label, several in names.items():
        if len(several) > 1:
            raise UserError(f"label {label} stands for {' and '.join(sorted(several))}", where=where, fix="give every cultivar one label")
    labels = [int(row["label"]) for _, row in rows]
    base = label_base(labels, given, {}, setting)
    return given or names_of_labels(max(labels, default=base), names, base), base

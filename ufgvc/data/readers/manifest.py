"""Reads a manifest: a CSV or Parquet table with path, label or cultivar, and optionally split and group (plant)."""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv

from ufgvc.core.errors import UserError
from ufgvc.core.parquet import read_parquet_file
from ufgvc.core.storage import Store
from ufgvc.data.readers.listing import (
    LABEL_WITHOUT_CLASS,
    Listing,
    Rejected,
    Source,
    integer_text,
    map_labels,
    merge_name_forms,
    natural_order,
    read_classes,
)
from ufgvc.data.readers.matching import PathMatcher, split_of
from ufgvc.data.readers.photos import ImageIds, Photos

EXTENSIONS = (".csv", ".parquet")
COLUMNS = ("path", "label", "cultivar", "split", "group")
_PREDICTION = "top1_probability"  # a column of the output of `predict`, whose cultivars are not labels
_SEPARATORS = (",", ";", "\t")


def find_table(source: Source) -> str | None:
    """The manifest in the top folder: manifest.csv, manifest.parquet, or the only other table with its columns; else
    None.
    """
    found = [path for path in source.files.sizes if "/" not in path and path.lower().endswith(EXTENSIONS)]
    named = [path for path in found if posixpath.splitext(path)[0].lower() == "manifest"]
    if named:
        if len(named) > 1:
            fix = "remove one, or give the file itself as --source"
            raise UserError(f"contains {' and '.join(named)}", where=source.store.uri, fix=fix)
        return named[0]
    fitting = [path for path in found if _has_columns(source.store, path)]
    if len(fitting) > 1:
        fix = "give the right file as --source"
        raise UserError(
            f"contains several tables with the columns of a manifest: {', '.join(fitting)}",
            where=source.store.uri,
            fix=fix,
        )
    return fitting[0] if fitting else None


def read(source: Source, table_name: str, base_setting: str | int) -> Listing:
    """Lists the photographs of a table; its paths are relative to its folder. UserError if a required column is
    missing.
    """
    where = f"{source.store.uri}/{table_name}"
    table = load_table(source.store, table_name)
    if not _is_manifest(table.column_names):
        has = ", ".join(table.column_names)
        what = (
            "is a table of predictions"
            if _PREDICTION in table.column_names
            else "needs the columns path and label (or cultivar)"
        )
        fix = "rename the columns; `--reader folder` reads the folders and no table"
        raise UserError(f"{what}, and has {has}", where=where, fix=fix)
    columns = {name: to_texts(table[name]) for name in COLUMNS if name in table.column_names}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    listing = Listing(source.store, Photos(source.sizes, (), str), (), used=[table_name, "classes.txt"])
    found = _find_photos(rows, source.sizes, listing)
    key, numbers = _number_classes(listing, read_classes(source), found, base_setting, where)
    chosen: list[tuple[int, int, str | None, str | None]] = []
    for path, row in found:
        given = row.get(key)
        label = numbers.get(given) if given is not None else None
        if label is None:
            reason = "has no label" if given is None else LABEL_WITHOUT_CLASS.format(label=given)
            listing.rejected.append(Rejected(path, reason))
            continue
        split = row.get("split")
        if split is not None and split_of(split) is None:
            raise UserError(f"calls the split of {path} {split!r}", where=where, fix="write train or test")
        chosen.append((source.sizes.row(path), label, split_of(split) if split else None, row.get("group")))
    ids = ImageIds([path for path, _ in found])
    listing.photos = Photos(source.sizes, listing.classes, ids.__getitem__, chosen)
    return listing


def _has_columns(store: Store, name: str) -> bool:
    """Whether a table has the columns of a manifest; False if it cannot be read."""
    try:
        return _is_manifest(load_table(store, name).column_names)
    except UserError:
        return False


def _is_manifest(names: Iterable[str]) -> bool:
    return "path" in names and bool({"label", "cultivar"} & set(names)) and _PREDICTION not in names


def load_table(store: Store, name: str, flag: str = "--source") -> pa.Table:
    """The table, with column names in lower case and without blanks around them. flag: that named it."""
    where = f"{store.uri}/{name}"
    try:
        if name.lower().endswith(".parquet"):
            table = read_parquet_file(store, name)
        else:
            text = store.read_text(name)
            header = text.partition("\n")[0]
            separator = max(_SEPARATORS, key=lambda sign: (header.count(sign), sign == ","))
            names = [re.sub(r'^"|"$', "", cell.strip()).strip().lower() for cell in header.strip().split(separator)]
            read = pacsv.ReadOptions(column_names=names, skip_rows=1)
            types = pacsv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
            data = pa.BufferReader(text.encode())
            table = pacsv.read_csv(
                data, read_options=read, parse_options=pacsv.ParseOptions(delimiter=separator), convert_options=types
            )
    except FileNotFoundError:
        raise UserError("there is no such file", where=where, fix=f"check {flag}") from None
    except pa.ArrowInvalid as error:
        raise UserError(f"cannot be read as a table ({error})", where=where, fix="correct the file") from None
    table = table.rename_columns([str(name).strip().lower() for name in table.column_names])
    twice = [column for column, count in Counter(table.column_names).items() if count > 1 and column in COLUMNS]
    if twice:
        raise UserError(f"has the column {twice[0]} twice", where=where, fix="remove or rename one of them")
    return table


def to_texts(column: pa.ChunkedArray) -> list[str | None]:
    """Cells as text without surrounding blanks; empty cells are None; in a column of integers 3.0 becomes 3."""
    cells = ["" if value is None else str(value).strip() for value in column.to_pylist()]
    if all(re.fullmatch(r"\d+(\.0+)?", cell) for cell in cells if cell):
        cells = [integer_text(cell) for cell in cells]
    return [cell or None for cell in cells]


def _find_photos(
    rows: list[dict[str, Any]], sizes: Mapping[str, int], listing: Listing
) -> list[tuple[str, dict[str, Any]]]:
    """(path, row) of every row whose photograph exists; the other rows are rejected."""
    matcher = PathMatcher(sizes, inside=True)
    unique: dict[tuple[str, str | None], dict[str, Any]] = {}
    for number, row in enumerate(rows, 1):
        given = row["path"]
        if not given:
            listing.rejected.append(Rejected(f"row {number}", "has no path"))
            continue
        path = posixpath.normpath(given)
        found = [path] if path in sizes else matcher.find(given)
        if len(found) != 1:
            outside = path.startswith(("/", "../")) or "://" in given
            reason = (
                "lies outside the manifest's folder; paths are relative to it"
                if outside
                else "the manifest lists it, but it does not exist"
            )
            if found:
                reason = f"{len(found)} photographs have this name: give its folder too"
            listing.rejected.append(Rejected(given if outside else path, reason))
        else:
            first = unique.setdefault((found[0], row.get("split")), row)
            if first | {"path": ""} != row | {"path": ""}:
                reason = f"row {number} contradicts an earlier row for the same photograph"
                listing.rejected.append(Rejected(found[0], reason))
    return [(path, row) for (path, _), row in unique.items()]


def _number_classes(
    listing: Listing,
    given: tuple[str, ...] | None,
    rows: list[tuple[str, dict[str, Any]]],
    setting: str | int,
    where: str,
) -> tuple[str, dict[str, int]]:
    """Sets the classes. Returns the column with the labels, and the class index of each of its texts.

    The column is `label` if its labels are numbers, else `cultivar` if there is one.  given: the classes of
    classes.txt; None without one.
    """
    labels = [row["label"] for _, row in rows if row.get("label") is not None]
    has_cultivar = any(row.get("cultivar") is not None for _, row in rows)
    if labels and all(label.isdecimal() for label in labels):
        names = merge_name_forms((row["cultivar"] for _, row in rows if row.get("cultivar") is not None), where)
        used: dict[str, set[str]] = defaultdict(set)
        for _, row in rows:
            if row.get("cultivar") is not None and row["label"] is not None:
                used[row["label"]].add(names[row["cultivar"]])
        for label, several in used.items():
            if len(several) > 1:
                raise UserError(
                    f"label {label} stands for {' and '.join(sorted(several))}",
                    where=where,
                    fix="give every cultivar one label",
                )
        listing.classes, numbers = map_labels(labels, given, used, setting, where)
        return "label", numbers
    key = "cultivar" if has_cultivar else "label"
    names = merge_name_forms((row[key] for _, row in rows if row.get(key) is not None), where)
    listing.classes = given or natural_order(names.values())
    index = {name: number for number, name in enumerate(listing.classes)}
    return key, {text: index[clean] for text, clean in names.items() if clean in index}

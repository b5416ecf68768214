"""The released Ultra-FGVC folder: images/, anno/*.txt, labels/*.txt (boxes), classes.txt; names <cultivar>_<k>_<split>."""

from __future__ import annotations

import re
from collections import defaultdict

from ufgvc.core.errors import UserError
from ufgvc.core.storage import Store, join
from ufgvc.data.readers.listing import (
    LABEL_WITHOUT_CLASS,
    Listing,
    Photo,
    Rejected,
    image_ids,
    in_natural_order,
    is_photograph,
    label_base,
    names_of_labels,
    read_classes,
    stem_of,
)

_NAME = re.compile(r"^(?P<cultivar>.+)_(?P<k>[^_]+)_(?P<split>train|test)$")


def fits(files: dict[str, int]) -> bool:
    photos = [path for path in files if path.startswith("images/") and is_photograph(path)]
    return bool(photos) and (any(_is_anno(path) for path in files) or all(_NAME.match(stem_of(path)) for path in photos))


def read(store: Store, files: dict[str, int], base_setting: str | int) -> Listing:
    """Photographs with the labels of anno/*.txt, or of their names where there is no anno folder. UserError on files that make no sense."""
    photos = [path for path in files if path.startswith("images/") and is_photograph(path)]
    annos = [path for path in files if _is_anno(path)]
    rejected: list[Rejected] = []
    if annos:
        rows = _annotated(store, annos, photos, rejected)
    else:
        rows = [(path, match["split"], match["cultivar"]) for path in photos if (match := _NAME.match(stem_of(path)))]
    named = {path for path, _, _ in rows}
    reason = "no anno file names it" if annos else "its name is not <cultivar>_<k>_<split>"
    left_out = [Rejected(path, reason) for path in photos if path not in named]
    classes = read_classes(store)
    listing = Listing(store, [], (), rejected=rejected, left_out=left_out)
    listing.boxes = join(store.uri, "labels") if any(path.startswith("labels/") for path in files) else None
    if all(label.isdecimal() for _, _, label in rows):
        _number(listing, [(path, split, int(label)) for path, split, label in rows], files, classes, base_setting)
    else:
        _name(listing, rows, files, classes)
    return listing


def _is_anno(path: str) -> bool:
    return path.startswith("anno/") and path.endswith(".txt") and _split_of_anno(path) is not None


def _split_of_anno(path: str) -> str | None:
    words = set(re.split(r"[^a-z]+", stem_of(path).lower()))
    return "train" if "train" in words else "test" if "test" in words else None


def _annotated(store: Store, annos: list[str], photos: list[str], rejected: list[Rejected]) -> list[tuple[str, str, str]]:
    """(path, split, label) of every line that names a photograph that is there."""
    paths = {path.removeprefix("images/"): path for path in photos} | {path: path for path in photos}
    rows: list[tuple[str, str, str]] = []
    seen: set[tuple[str, str, str]] = set()
    for anno in annos:
        split = _split_of_anno(anno)
        assert split is not None
        for number, line in enumerate(store.read_text(anno).splitlines(), 1):
            if not line.strip():
                continue
            name, _, label = line.strip().replace("\t", " ").rpartition(" ")
            name = name.strip().strip(",").removeprefix("./")
            if not name:
                what = f"line {number} is not `<file> <label>`: {line.strip()!r}"
                raise UserError(what, where=f"{store.uri}/{anno}", fix="mend the line")
            if name not in paths:
                rejected.append(Rejected(f"images/{name}", f"{anno} names it, but it is not there"))
            elif (paths[name], split, label) not in seen:
                seen.add((paths[name], split, label))
                rows.append((paths[name], split, label))
    return rows


def _prefix(path: str) -> str:
    match = _NAME.match(stem_of(path))
    return match["cultivar"] if match else ""


def _number(
    listing: Listing, rows: list[tuple[str, str, int]], files: dict[str, int], classes: tuple[str, ...] | None, setting: str | int
) -> None:
    """Numeric labels stay in their order; they start at 0 or 1."""
    prefixes: dict[int, set[str]] = defaultdict(set)
    for path, _, label in rows:
        prefixes[label].add(_prefix(path))
    if any("" in names for names in prefixes.values()):
        prefixes.clear()
    labels = [label for _, _, label in rows]
    base = label_base(labels, classes, prefixes, setting)
    listing.classes = classes if classes is not None else names_of_labels(max(labels, default=base), prefixes, base)
    ids = image_ids(path.removeprefix("images/") for path, _, _ in rows)
    for path, split, given in rows:
        label = given - base
        if not 0 <= label < len(listing.classes):
            listing.rejected.append(Rejected(path, LABEL_WITHOUT_CLASS.format(label=given)))
            continue
        listing.photos.append(Photo(path, files[path], ids[path.removeprefix("images/")], listing.classes[label], label, split))


def _name(listing: Listing, rows: list[tuple[str, str, str]], files: dict[str, int], classes: tuple[str, ...] | None) -> None:
    """Labels that are names."""
    listing.classes = classes if classes is not None else in_natural_order(label for _, _, label in rows)
    numbers = {name: number for number, name in enumerate(listing.classes)}
    ids = image_ids(path.removeprefix("images/") for path, _, _ in rows)
    for path, split, name in rows:
        if name not in numbers:
            listing.rejected.append(Rejected(path, LABEL_WITHOUT_CLASS.format(label=repr(name))))
            continue
        listing.photos.append(Photo(path, files[path], ids[path.removeprefix("images/")], name, numbers[name], split))

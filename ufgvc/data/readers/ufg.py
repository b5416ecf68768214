"""Reads the layout of the released Ultra-FGVC sets: images/<cultivar>_<k>_<split>, anno/*.txt, labels/*.txt (boxes),
classes.txt.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from ufgvc.core.errors import UserError
from ufgvc.core.storage import join
from ufgvc.data.readers.listing import (
    LABEL_WITHOUT_CLASS,
    Listing,
    Rejected,
    Source,
    clean_name,
    integer_text,
    map_labels,
    merge_name_forms,
    natural_order,
    read_classes,
)
from ufgvc.data.readers.matching import PathMatcher, file_stem, split_of
from ufgvc.data.readers.photos import ImageIds, Photos

_NAME = re.compile(r"^(?P<cultivar>.+)_(?P<k>[^_]+)_(?P<split>train|test)$")
_HEADER = frozenset(
    ("file", "filename", "file_name", "path", "image", "img", "name", "photo", "label", "class", "cultivar", "id")
)


def fits(source: Source) -> bool:
    """Whether the source has this layout: images/ with anno/, or with names that give cultivar and split."""
    images = source.top_folder("images")
    photos = [path for path in source.sizes if images and path.startswith(images)]
    return bool(photos) and (bool(_anno_files(source)) or all(_NAME.match(file_stem(path)) for path in photos))


def read(source: Source, base_setting: str | int) -> Listing:
    """Lists the photographs, with the labels of anno/*.txt, or of their names without an anno folder. UserError for
    invalid files.
    """
    store, images = source.store, source.top_folder("images")
    if images is None:
        fix = "give the folder that contains images/ and anno/, or another --reader"
        raise UserError("has no folder images/", where=store.uri, fix=fix)
    photos = [path for path in source.sizes if path.startswith(images)]
    annos = _anno_files(source)
    listing = Listing(store, Photos(source.sizes, (), str), (), used=["classes.txt", *annos])
    if annos:
        rows = [row for anno in annos for row in _read_anno(source, anno, photos, listing.rejected)]
    else:
        rows = [(path, match["split"], match["cultivar"]) for path in photos if (match := _NAME.match(file_stem(path)))]
    rows = list(dict.fromkeys(rows))
    named = {path for path, _, _ in rows}
    reason = "no anno file lists it" if annos else "its name is not <cultivar>_<k>_<split>"
    listing.left_out = [Rejected(path, reason) for path in photos if path not in named]
    masks_folder = source.top_folder("masks")  # `mask --mask-kind exact` reads them
    listing.used += [path for path in source.sizes if masks_folder and path.startswith(masks_folder)]
    labels_folder = source.top_folder("labels")
    if labels_folder:
        listing.boxes = join(store.uri, labels_folder.rstrip("/"))
        listing.used += [path for path in source.photographs.others if path.startswith(labels_folder)]
    classes = read_classes(source)
    if all(label.isdecimal() for _, _, label in rows):
        listing.classes, numbers = map_labels(
            [label for _, _, label in rows], classes, _prefixes(rows), base_setting, store.uri
        )
    else:
        names = merge_name_forms((label for _, _, label in rows), store.uri)
        listing.classes = classes if classes is not None else natural_order(names.values())
        index = {name: number for number, name in enumerate(listing.classes)}
        numbers = {label: index[clean] for label, clean in names.items() if clean in index}
    _add_photos(listing, rows, numbers, source, images)
    return listing


def _add_photos(
    listing: Listing, rows: list[tuple[str, str, str]], numbers: dict[str, int], source: Source, images: str
) -> None:
    ids = ImageIds([path.removeprefix(images) for path, _, _ in rows])
    for path, _, label in rows:
        if label not in numbers:
            shown = label if label.isdecimal() else repr(clean_name(label))
            listing.rejected.append(Rejected(path, LABEL_WITHOUT_CLASS.format(label=shown)))
    listing.photos = Photos(
        source.sizes,
        listing.classes,
        lambda path: ids[path.removeprefix(images)],
        ((source.sizes.row(path), numbers[label], split, None) for path, split, label in rows if label in numbers),
    )


def _anno_files(source: Source) -> list[str]:
    anno = source.top_folder("anno")
    return [
        path
        for path in source.photographs.others
        if anno and path.startswith(anno) and path.endswith(".txt") and _split_of_anno(path)
    ]


def _split_of_anno(path: str) -> str | None:
    splits = {split_of(word) for word in re.split(r"[^a-z]+", file_stem(path).lower())} - {None}
    return splits.pop() if len(splits) == 1 else None


def _read_anno(
    source: Source, anno: str, photos: list[str], rejected: list[Rejected]
) -> Iterator[tuple[str, str, str]]:
    """(path, split, label) of every line whose photograph exists; the other lines are rejected."""
    matcher, split = PathMatcher(photos, inside=True), _split_of_anno(anno)
    assert split is not None
    for number, line in enumerate(source.store.read_text(anno).splitlines(), 1):
        if not line.strip() or (number == 1 and set(re.split(r"[\s,;]+", line.strip().lower())) <= _HEADER):
            continue
        name, label = _split_line(line.strip(), matcher)
        found = matcher.find(name) if name else []
        if not name or not label:
            what = f"line {number} is not `<file> <label>`: {line.strip()!r}"
            raise UserError(what, where=f"{source.store.uri}/{anno}", fix="correct the line")
        if len(found) == 1:
            yield found[0], split, integer_text(label)
        else:
            problem = f"but {len(found)} photographs have this name" if found else "but it does not exist"
            rejected.append(Rejected(f"images/{name}", f"{anno} lists it in line {number}, {problem}"))


def _split_line(line: str, matcher: PathMatcher) -> tuple[str, str]:
    """(file, label) of a line, in either order, separated by a tab, comma, semicolon or blanks, without quotes."""
    separator = next((sign for sign in ("\t", ",", ";") if sign in line), " ")
    first, last = line.rpartition(separator)[::2], line.partition(separator)[::2]
    name, label = (text.strip().strip("\"'").strip() for text in first)
    if name and not matcher.find(name):
        other_label, other_name = (text.strip().strip("\"'").strip() for text in last)
        if other_name and matcher.find(other_name):
            return other_name, other_label
    return name.rstrip(",").strip(), label


def _prefixes(rows: list[tuple[str, str, str]]) -> dict[str, set[str]]:
    """The <cultivar> of the file names of each label; {} if a file name has none."""
    prefixes: dict[str, set[str]] = defaultdict(set)
    for path, _, label in rows:
        match = _NAME.match(file_stem(path))
        if match is None:
            return {}
        prefixes[label].add(clean_name(match["cultivar"]))
    return prefixes

"""An image folder: <split>/<class>/<file>, or <class>/<file> that still has to be split."""

from __future__ import annotations

from ufgvc.core.errors import UserError
from ufgvc.core.storage import Store
from ufgvc.data.readers.listing import (
    LABEL_WITHOUT_CLASS,
    Listing,
    Photo,
    Rejected,
    image_ids,
    in_natural_order,
    is_photograph,
    read_classes,
    split_of,
)

_VALIDATION = ("val", "valid", "validation", "dev")


def fits(files: dict[str, int]) -> bool:
    return any(is_photograph(path) and path.count("/") >= 1 for path in files)


def read(store: Store, files: dict[str, int]) -> Listing:
    """Photographs with the name of their folder as class. Folders within a class's folder belong to the class."""
    photos = [path for path in files if is_photograph(path)]
    tops = {path.partition("/")[0] for path in photos if "/" in path}
    validation = sorted(top for top in tops if top.lower() in _VALIDATION)
    is_split = any(split_of(top) for top in tops) and all(split_of(top) or top in validation for top in tops)
    if is_split and validation:
        raise UserError(
            f"has a folder {validation[0]!r}; this program knows train and test and takes validation from train by itself",
            where=store.uri,
            fix="move its photographs into train/ or test/",
        )
    depth = 2 if is_split else 1
    listing = Listing(store, [], ())
    found: list[tuple[str, str, str | None]] = []
    for path in photos:
        folders = path.split("/")[:-1]
        if len(folders) < depth:
            listing.rejected.append(Rejected(path, "lies in no class's folder"))
            continue
        found.append((path, folders[depth - 1], split_of(folders[0]) if is_split else None))
    listing.classes = read_classes(store) or in_natural_order(name for _, name, _ in found)
    numbers = {name: number for number, name in enumerate(listing.classes)}
    ids = image_ids(path for path, _, _ in found)
    for path, name, split in found:
        if name not in numbers:
            listing.rejected.append(Rejected(path, LABEL_WITHOUT_CLASS.format(label=repr(name)) + " in classes.txt"))
            continue
        listing.photos.append(Photo(path, files[path], ids[path], name, numbers[name], split))
    return listing

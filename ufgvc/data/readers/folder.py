"""Reads an image folder: <split>/<class>/<file>, or <class>/<file> without a split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ufgvc.core.errors import UserError
from ufgvc.data.readers.file_table import FileTable
from ufgvc.data.readers.listing import (
    LABEL_WITHOUT_CLASS,
    Listing,
    Rejected,
    Source,
    merge_name_forms,
    natural_order,
    read_classes,
)
from ufgvc.data.readers.matching import split_of
from ufgvc.data.readers.photos import ImageIds, Photos

_VALIDATION_NAMES = ("val", "valid", "validation", "dev")
_DETECTION_FOLDERS = frozenset(("images", "labels", "obj_train_data", "jpegimages"))


def read(source: Source) -> Listing:
    """Lists the photographs, with the name of their folder as class; folders inside a class folder belong to the class.

    UserError for folders that are not cultivars: splits next to others, a single folder around all, folders of
    annotation tools.
    """
    where, sizes = source.store.uri, source.sizes
    tops = Counter(path.partition("/")[0] for path in sizes if "/" in path)
    is_split = _has_splits(tops, where)
    depth = 2 if is_split else 1
    rejected = [Rejected(path, "is not in the folder of a class") for path in sizes if path.count("/") < depth]
    class_folders = {path.split("/")[depth - 1] for path in sizes if path.count("/") >= depth}
    _check_class_folders(class_folders, sizes, depth, where)
    names = merge_name_forms(class_folders, where)
    classes = read_classes(source) or natural_order(names.values())
    numbers = {name: number for number, name in enumerate(classes)}

    def rows() -> Iterator[tuple[int, int, str | None, None]]:
        for row, path in enumerate(sizes):
            folders = path.split("/")[:-1]
            if len(folders) < depth:
                continue
            name = names[folders[depth - 1]]
            if name in numbers:
                yield row, numbers[name], split_of(folders[0]) if is_split else None, None
            else:
                rejected.append(Rejected(path, LABEL_WITHOUT_CLASS.format(label=repr(name)) + " in classes.txt"))

    photos = Photos(sizes, classes, ImageIds(sizes).__getitem__, rows())
    return Listing(source.store, photos, classes, rejected=rejected, used=["classes.txt"])


def _has_splits(tops: Counter[str], where: str) -> bool:
    """Whether the top folders are splits. UserError if only some of them are."""
    splits = [top for top in tops if split_of(top)]
    validation = sorted(top for top in tops if top.lower() in _VALIDATION_NAMES)
    others = sorted(top for top in tops if top not in splits and top not in validation)
    if not splits:
        return False
    if others:
        found = ", ".join(f"{top}/" for top in sorted(splits))
        shown = ", ".join(f"{top}/ ({tops[top]} photographs)" for top in others[:5])
        fix = "move them out of the source, or sort their photographs into train/<cultivar>/ and test/<cultivar>/"
        raise UserError(f"has {found} and, next to them, {shown}", where=where, fix=fix)
    if validation:
        raise UserError(
            f"has a folder {validation[0]!r}; only train and test are read, and validation leaves are taken from train",
            where=where,
            fix="move its photographs into train/ or test/",
        )
    return True


def _check_class_folders(classes: set[str], sizes: FileTable, depth: int, where: str) -> None:
    """UserError if the folders at the level of the classes are something else."""
    tools = sorted(name for name in classes if name.lower() in _DETECTION_FOLDERS)
    if tools:
        what = (
            f"is laid out for detection ({tools[0]}/ instead of folders of cultivars), without the cultivar of a leaf"
        )
        raise UserError(
            what,
            where=where,
            fix="sort the photographs into train/<cultivar>/, or give a table (path, cultivar, split)",
        )
    if len(classes) == 1:
        only = next(iter(classes))
        prefix = "/".join(next(iter(sizes)).split("/")[:depth])
        below = sorted({"/".join(path.split("/")[depth : depth + 1]) for path in sizes if path.count("/") > depth})
        if below:
            shown = ", ".join(f"{name}/" for name in below[:4])
            fix = (
                f"give --source {where}/{prefix}"
                if depth == 1
                else "put the cultivars' folders directly into train/ and test/"
            )
            raise UserError(f"has one folder too many: {only}/ contains {shown}", where=where, fix=fix)

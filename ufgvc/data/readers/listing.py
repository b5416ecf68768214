"""What a reader finds out: the photographs of a source and what is known about each, before one of them is opened."""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow.fs as pafs
from natsort import natsorted

from ufgvc.core.errors import UserError
from ufgvc.core.storage import Store

PHOTOGRAPHS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff")
# Photographs of other kinds are listed too, so that they are refused with a reason and not passed over.
_OTHER_KINDS = (".bmp", ".gif", ".heic", ".heif", ".avif", ".jp2", ".dng", ".cr2", ".cr3", ".nef", ".arw")
_SPLIT_NAMES = {"train": "train", "training": "train", "test": "test", "testing": "test"}
LABEL_WITHOUT_CLASS = "its label {label} has no class"


@dataclass(slots=True)
class Photo:
    """One photograph. path: below the source. size: bytes. split, group: None if the source does not say. label: from 0."""

    path: str
    size: int
    image_id: str
    cultivar: str
    label: int = -1
    split: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class Rejected:
    """A bad input: `path` below its source, `reason` for people."""

    path: str
    reason: str


@dataclass
class Listing:
    """The photographs of `store` in a reader's view. classes: names in label order. boxes: where the source keeps its boxes, if it does.

    rejected: bad inputs that are known already.  left_out: files that the source itself does not use (told, never an error).
    """

    store: Store
    photos: list[Photo]
    classes: tuple[str, ...]
    boxes: str | None = None
    rejected: list[Rejected] = field(default_factory=list)
    left_out: list[Rejected] = field(default_factory=list)


def scan(store: Store) -> dict[str, int]:
    """Bytes of every file below `store` by its relative path; hidden files are passed over. UserError if there is nothing."""
    store.list(recursive=False)  # storage that cannot be reached is explained here
    infos = store.fs.get_file_info(pafs.FileSelector(store.path, recursive=True, allow_not_found=True))
    files = {posixpath.relpath(info.path, store.path): int(info.size or 0) for info in infos if info.type == pafs.FileType.File}
    shown = {path: size for path, size in sorted(files.items()) if not any(part.startswith(".") for part in path.split("/"))}
    if not shown:
        raise UserError("holds no files", where=store.uri, fix="check --source")
    return shown


def is_photograph(path: str) -> bool:
    return path.lower().endswith(PHOTOGRAPHS + _OTHER_KINDS)


def split_of(word: str) -> str | None:
    """train or test for the words that mean it, else None."""
    return _SPLIT_NAMES.get(word.strip().lower())


def stem_of(path: str) -> str:
    return posixpath.splitext(posixpath.basename(path))[0]


def image_ids(paths: Iterable[str]) -> dict[str, str]:
    """path -> image_id: the path without its ending, unless two photographs differ only by that."""
    paths = set(paths)
    bare = {path: posixpath.splitext(path)[0] for path in paths}
    uses = Counter(bare.values())
    return {path: name if uses[name] == 1 else path for path, name in bare.items()}


def in_natural_order(names: Iterable[str]) -> tuple[str, ...]:
    """Class names in label order: 2 comes before 10."""
    return tuple(natsorted(set(names)))


def read_classes(store: Store, name: str = "classes.txt") -> tuple[str, ...] | None:
    """Class names in label order, one a line; None if there is no such file. UserError if a name stands there twice."""
    if not store.exists(name):
        return None
    where = f"{store.uri}/{name}"
    try:
        lines = [line.strip() for line in store.read_text(name).splitlines()]
    except UnicodeDecodeError:
        raise UserError("is not UTF-8 text", where=where, fix="save it as UTF-8") from None
    names = [line for line in lines if line]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"the class {twice[0]!r} stands there twice", where=where, fix="give every label a name of its own")
    return tuple(names)


def label_base(labels: Iterable[int], classes: Sequence[str] | None, prefixes: Mapping[int, set[str]], setting: str | int) -> int:
    """Whether a source's labels start at 0 or 1.

    prefixes: for each label, the <cultivar> of its file names, which in the released sets count from 1. setting: auto, 0 or 1.
    """
    if setting != "auto":
        return int(setting)
    found = set(labels)
    if not found or min(found) == 0:
        return 0
    if classes is not None and max(found) >= len(classes):
        return 1
    # Neither the first nor the last label occurs, so the names decide: 0-based labels are one less than the names' numbers.
    if found and all(prefixes.get(label) == {str(label + 1)} for label in found):
        return 0
    return 1


def names_of_labels(highest: int, prefixes: Mapping[int, set[str]], base: int) -> tuple[str, ...]:
    """Names for labels base..highest where no classes.txt gives them: the file names' <cultivar> where it is one to one, else numbers."""
    known = {label: next(iter(names)) for label, names in prefixes.items() if len(names) == 1}
    if len(set(known.values())) < len(prefixes):
        known = {}
    names = [known.get(label, str(label)) for label in range(base, highest + 1)]
    return tuple(names) if len(set(names)) == len(names) else tuple(str(label) for label in range(base, highest + 1))


def set_groups(photos: Iterable[Photo], pattern: str | None) -> None:
    """Fills in the group (plant) from the first parenthesis of a regular expression that is searched in the path."""
    if not pattern:
        return
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"is not a regular expression ({error})", where="group_pattern", fix="for example (plant\\d+)_") from None
    if compiled.groups < 1:
        raise UserError("has no parenthesis that marks the plant", where="group_pattern", fix="for example (plant\\d+)_")
    for photo in photos:
        match = compiled.search(photo.path)
        if match and photo.group is None:
            photo.group = match.group(1)

"""The result of a reader: the photographs of a source with labels and splits, before any of them is opened."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from natsort import natsorted

from ufgvc.core.errors import UserError
from ufgvc.core.region_names import PAPER_REGIONS
from ufgvc.core.storage import Store
from ufgvc.data.readers.file_table import FileTable
from ufgvc.data.readers.photos import NO_GROUP, Photos
from ufgvc.data.readers.scan import Photographs, Rejected, Scan

log = logging.getLogger(__name__)
LABEL_WITHOUT_CLASS = "its label {label} has no class"


@dataclass
class Listing:
    """The photographs of `store`.  classes: names in label order.  boxes: URI of the boxes of the source, if it has
    any.

    rejected: inputs with errors.  left_out: files that are not used, which is no error.
    used: files that were read, or that other commands read.  unused: other files that are not photographs.
    """

    store: Store
    photos: Photos
    classes: tuple[str, ...]
    boxes: str | None = None
    rejected: list[Rejected] = field(default_factory=list)
    left_out: list[Rejected] = field(default_factory=list)
    used: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """The files of a source, and which of them are photographs.  regions: names that boxes may have."""

    files: Scan
    photographs: Photographs
    regions: tuple[str, ...] = PAPER_REGIONS

    @property
    def store(self) -> Store:
        """Where the photographs are."""
        return self.files.store

    @property
    def sizes(self) -> FileTable:
        """Bytes by path of the photographs."""
        return self.photographs.sizes

    def top_folder(self, name: str) -> str | None:
        """The top folder with this name in any case (images, Images), followed by a slash; None if there is none."""
        tops = {path.partition("/")[0] for path in self.files.sizes if "/" in path}
        return next((f"{top}/" for top in sorted(tops) if top.lower() == name), None)


def clean_name(name: str) -> str:
    """The normalised name of a cultivar: composed Unicode (NFC), one blank between words, none around them."""
    return " ".join(unicodedata.normalize("NFC", name).split())


def natural_order(names: Iterable[str]) -> tuple[str, ...]:
    """Different names in natural order: 2 comes before 10."""
    return tuple(natsorted(set(names)))


def read_classes(source: Source, name: str = "classes.txt") -> tuple[str, ...] | None:
    """Class names in label order, one a line; None if there is no such file. UserError if a name occurs twice.

    None too if the names are those of regions: annotation tools use the same file name for the classes of boxes.
    """
    store = source.store
    if not store.exists(name):
        return None
    names = [clean for line in store.read_text(name).splitlines() if (clean := clean_name(line))]
    names = _without_numbers(names)
    if names and all(name.lower() in source.regions for name in names):
        return None
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        where = f"{store.uri}/{name}"
        raise UserError(f"the class {twice[0]!r} occurs twice", where=where, fix="give every label a name of its own")
    return tuple(names)


def _without_numbers(names: list[str]) -> list[str]:
    """Removes the numbers of a numbered list (`0 AK`, `1 ALA`, ...); any other numbers are part of the names."""
    split = [name.split(" ", 1) for name in names]
    if len(names) > 1 and all(len(parts) == 2 for parts in split):
        for first in (0, 1):
            if [number for number, _ in split] == [str(first + k) for k in range(len(names))]:
                return [name for _, name in split]
    return names


def integer_text(text: str) -> str:
    """A label without the decimals of a spreadsheet: 3.0 becomes 3; any other text is returned unchanged."""
    return re.sub(r"^(\d+)\.0+$", r"\1", text)


def label_base(
    labels: Iterable[int], classes: Sequence[str], prefixes: Mapping[int, set[str]], setting: str | int
) -> int:
    """0 or 1: the first label of a source with a classes.txt.

    prefixes: for each label, the <cultivar> of its file names, which in the released sets count from 1.  setting: auto,
    0 or 1.
    """
    if setting != "auto":
        return int(setting)
    found = set(labels)
    if not found or min(found) == 0:
        return 0
    if max(found) >= len(classes):
        return 1
    # Neither the first nor the last label occurs, so the names decide: 0-based labels are one less than the names'
    # numbers.
    return 0 if all(prefixes.get(label) == {str(label + 1)} for label in found) else 1


def map_labels(
    labels: Sequence[str],
    classes: tuple[str, ...] | None,
    prefixes: Mapping[str, set[str]],
    setting: str | int,
    where: str,
) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes of numeric labels, and the class index of each label that has a class.

    classes: of classes.txt, in label order. If it is None the labels that occur are the classes, in their order, with
    the names of `prefixes` (label -> names used with it) if these are unique, else with their own text (001 stays 001).
    """
    texts = sorted(set(labels), key=lambda text: (int(text), text))
    twice = [(one, other) for one, other in pairwise(texts) if int(one) == int(other)]
    if twice:
        raise UserError(
            f"the labels {twice[0][0]} and {twice[0][1]} are the same number",
            where=where,
            fix="write each label in one way",
        )
    if classes is not None:
        by_number = {int(text): prefixes.get(text, set()) for text in texts}
        base = label_base(by_number, classes, by_number, setting)
        return classes, {text: int(text) - base for text in texts if 0 <= int(text) - base < len(classes)}
    names = [next(iter(prefixes[text])) if len(prefixes.get(text, ())) == 1 else "" for text in texts]
    if "" in names or len(set(names)) < len(names):
        names = texts
    return tuple(names), {text: number for number, text in enumerate(texts)}


def merge_name_forms(names: Iterable[str], where: str) -> dict[str, str]:
    """The normalised name of each name; several forms of one name are logged."""
    forms: dict[str, set[str]] = defaultdict(set)
    for name in names:
        forms[clean_name(name)].add(name)
    for clean, several in sorted(forms.items()):
        if len(several) > 1:
            shown = ", ".join(ascii(name) for name in sorted(several))  # forms of Unicode may look the same
            log.warning("%s: %s are read as one cultivar, %r", where, shown, clean)
    return {name: clean for clean, several in forms.items() for name in several}


def check_names(listing: Listing, where: str) -> None:
    """UserError for a single cultivar, or for names that differ only in case, each in one split only; others are
    logged.
    """
    splits: dict[str, set[int]] = defaultdict(set)
    photos = listing.photos
    for number in np.unique(photos.labels * 4 + photos.splits).tolist():  # NO_SPLIT is -1
        label = (number + 1) // 4
        splits[photos.classes[label]].add(number - label * 4)
    if len(listing.classes) == 1:
        fix = "give the folder with one folder for each cultivar, or a table with the column cultivar"
        raise UserError(f"has photographs of one cultivar only, {listing.classes[0]!r}", where=where, fix=fix)
    alike: dict[str, list[str]] = defaultdict(list)
    for name in splits:
        alike[name.casefold()].append(name)
    for several in (sorted(names) for names in alike.values() if len(names) > 1):
        shown = " and ".join(repr(name) for name in several)
        apart = all(splits[one].isdisjoint(splits[other]) for one in several for other in several if one != other)
        if apart:
            fix = "use the same spelling in train and test"
            raise UserError(
                f"the cultivars {shown} differ only in case, and each has photographs in one split only",
                where=where,
                fix=fix,
            )
        log.warning("%s: the cultivars %s differ only in case; they stay different classes", where, shown)


def list_unused_files(listing: Listing, source: Source) -> None:
    """Adds the files of the source that are neither photographs of the listing nor read for it."""
    found = source.photographs
    listing.rejected += found.rejected
    listing.left_out += found.left_out
    known = {bad.path for bad in [*listing.rejected, *listing.left_out]} | set(listing.used)
    unlisted = found.sizes.paths(np.flatnonzero(listing.photos.first_rows() < 0))
    listing.left_out += [Rejected(path, "the source does not list it") for path in unlisted if path not in known]
    listing.unused = [path for path in found.others if path not in known]


def set_groups(photos: Photos, pattern: str | None) -> None:
    """Sets the group (plant) from the first parenthesis of a regular expression that is searched in the path."""
    if not pattern:
        return
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"is not a regular expression ({error})", where="group_pattern", fix="for example (plant\\d+)_"
        ) from None
    if compiled.groups < 1:
        raise UserError(
            "has no parenthesis that marks the plant", where="group_pattern", fix="for example (plant\\d+)_"
        )
    for row, path in enumerate(photos.paths()):
        match = compiled.search(path)
        if match and photos.groups[row] == NO_GROUP:
            photos.groups[row] = photos.group_number(match.group(1))

"""What a reader finds out: the photographs of a source and what is known about each, before one of them is opened."""

from __future__ import annotations

import logging
import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from natsort import natsorted

from ufgvc.core.errors import UserError
from ufgvc.core.storage import Store
from ufgvc.core.types import REGIONS
from ufgvc.data.readers.scan import Photographs, Rejected, Scan

log = logging.getLogger(__name__)
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


@dataclass
class Listing:
    """The photographs of `store` in a reader's view. classes: names in label order. boxes: where the source keeps its boxes, if it does.

    rejected: bad inputs that are known already.  left_out: files that are not used (listed, never an error).
    used: files that the reader has read, or that belong to other commands.  unused: other files that are no photographs.
    """

    store: Store
    photos: list[Photo]
    classes: tuple[str, ...]
    boxes: str | None = None
    rejected: list[Rejected] = field(default_factory=list)
    left_out: list[Rejected] = field(default_factory=list)
    used: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """The files of a source, sorted into photographs and others, for its reader."""

    files: Scan
    photographs: Photographs

    @property
    def store(self) -> Store:
        return self.files.store

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by path of the photographs."""
        return self.photographs.sizes

    def top_folder(self, name: str) -> str | None:
        """The folder at the top that has this name in any case (images, Images), with its slash; None if there is none."""
        tops = {path.partition("/")[0] for path in self.files.sizes if "/" in path}
        return next((f"{top}/" for top in sorted(tops) if top.lower() == name), None)


def clean_name(name: str) -> str:
    """A cultivar's name as it is compared and shown: composed Unicode, one blank between words, none around them."""
    return " ".join(unicodedata.normalize("NFC", name).split())


def image_ids(paths: Iterable[str]) -> dict[str, str]:
    """path -> image_id: the path without its ending in composed Unicode, unless two photographs would be called the same."""
    paths = sorted(set(paths))
    bare = {path: unicodedata.normalize("NFC", posixpath.splitext(path)[0]) for path in paths}
    uses = Counter(bare.values())
    whole = {path: unicodedata.normalize("NFC", path) for path in paths}
    same = Counter(whole.values())
    return {
        path: name if uses[name] == 1 else whole[path] if same[whole[path]] == 1 else path
        for path, name in bare.items()
    }


def in_natural_order(names: Iterable[str]) -> tuple[str, ...]:
    """Class names in label order: 2 comes before 10."""
    return tuple(natsorted(set(names)))


def read_classes(store: Store, name: str = "classes.txt") -> tuple[str, ...] | None:
    """Class names in label order, one a line; None if there is no such file. UserError if a name stands there twice.

    None too if the file names the regions: annotation tools write the classes of the boxes into a file of the same name.
    """
    if not store.exists(name):
        return None
    names = [clean for line in store.read_text(name).splitlines() if (clean := clean_name(line))]
    names = _without_numbers(names)
    if names and all(name.lower() in REGIONS for name in names):
        return None
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        where = f"{store.uri}/{name}"
        raise UserError(
            f"the class {twice[0]!r} stands there twice", where=where, fix="give every label a name of its own"
        )
    return tuple(names)


def _without_numbers(names: list[str]) -> list[str]:
    """`0 AK`, `1 ALA`, ... is a numbered list of the names; any other numbers belong to them."""
    split = [name.split(" ", 1) for name in names]
    if len(names) > 1 and all(len(parts) == 2 for parts in split):
        for first in (0, 1):
            if [number for number, _ in split] == [str(first + k) for k in range(len(names))]:
                return [name for _, name in split]
    return names


def whole_number(text: str) -> str:
    """A label as its digits: 3.0 of a spreadsheet is 3; any other text stays as it is."""
    return re.sub(r"^(\d+)\.0+$", r"\1", text)


def label_base(
    labels: Iterable[int], classes: Sequence[str], prefixes: Mapping[int, set[str]], setting: str | int
) -> int:
    """Whether the labels of a source with a classes.txt start at 0 or 1.

    prefixes: for each label, the <cultivar> of its file names, which in the released sets count from 1. setting: auto, 0 or 1.
    """
    if setting != "auto":
        return int(setting)
    found = set(labels)
    if not found or min(found) == 0:
        return 0
    if max(found) >= len(classes):
        return 1
    # Neither the first nor the last label occurs, so the names decide: 0-based labels are one less than the names' numbers.
    return 0 if all(prefixes.get(label) == {str(label + 1)} for label in found) else 1


def number_labels(
    labels: Sequence[str],
    classes: tuple[str, ...] | None,
    prefixes: Mapping[str, set[str]],
    setting: str | int,
    where: str,
) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes of numeric labels, and label text -> class index; a label that has no class is not in it.

    classes: of classes.txt, in label order, or None: then the labels that occur are the classes, in their order, named by
    `prefixes` (label -> names used with it) where that is one to one, else by their own text (001 stays 001).
    """
    texts = sorted(set(labels), key=lambda text: (int(text), text))
    twice = [(one, other) for one, other in pairwise(texts) if int(one) == int(other)]
    if twice:
        raise UserError(
            f"the labels {twice[0][0]} and {twice[0][1]} are one number", where=where, fix="write a label one way"
        )
    if classes is not None:
        by_number = {int(text): prefixes.get(text, set()) for text in texts}
        base = label_base(by_number, classes, by_number, setting)
        return classes, {text: int(text) - base for text in texts if 0 <= int(text) - base < len(classes)}
    names = [next(iter(prefixes[text])) if len(prefixes.get(text, ())) == 1 else "" for text in texts]
    if "" in names or len(set(names)) < len(names):
        names = texts
    return tuple(names), {text: number for number, text in enumerate(texts)}


def settle_names(names: Iterable[str], where: str) -> dict[str, str]:
    """name as it was found -> clean name; what was found in several forms is logged."""
    forms: dict[str, set[str]] = defaultdict(set)
    for name in names:
        forms[clean_name(name)].add(name)
    for clean, several in sorted(forms.items()):
        if len(several) > 1:
            shown = ", ".join(ascii(name) for name in sorted(several))  # two forms of Unicode look the same on a screen
            log.warning("%s: %s are read as one cultivar, %r", where, shown, clean)
    return {name: clean for clean, several in forms.items() for name in several}


def check_names(listing: Listing, where: str) -> None:
    """UserError for a single cultivar, and for two that differ only in case and are never in the same split; others are logged."""
    splits: dict[str, set[str | None]] = defaultdict(set)
    for photo in listing.photos:
        splits[photo.cultivar].add(photo.split)
    if len(listing.classes) == 1:
        fix = "give the folder that holds one folder a cultivar, or a table with the column cultivar"
        raise UserError(f"holds photographs of one cultivar only, {listing.classes[0]!r}", where=where, fix=fix)
    alike: dict[str, list[str]] = defaultdict(list)
    for name in splits:
        alike[name.casefold()].append(name)
    for several in (sorted(names) for names in alike.values() if len(names) > 1):
        shown = " and ".join(repr(name) for name in several)
        apart = all(splits[one].isdisjoint(splits[other]) for one in several for other in several if one != other)
        if apart:
            fix = "write the name one way in train and test"
            raise UserError(
                f"the cultivars {shown} differ only in case, and each has photographs in one split only",
                where=where,
                fix=fix,
            )
        log.warning("%s: the cultivars %s differ only in case; they are kept apart", where, shown)


def add_unused(listing: Listing, source: Source) -> None:
    """Lists every file of the source that is neither a photograph of the listing nor read for it."""
    found = source.photographs
    listing.rejected += found.rejected
    listing.left_out += found.left_out
    known = (
        {photo.path for photo in listing.photos}
        | {bad.path for bad in [*listing.rejected, *listing.left_out]}
        | set(listing.used)
    )
    listing.left_out += [Rejected(path, "the source does not name it") for path in found.sizes if path not in known]
    listing.unused = [path for path in found.others if path not in known]


def set_groups(photos: Iterable[Photo], pattern: str | None) -> None:
    """Fills in the group (plant) from the first parenthesis of a regular expression that is searched in the path."""
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
    for photo in photos:
        match = compiled.search(photo.path)
        if match and photo.group is None:
            photo.group = match.group(1)

"""Matches the paths in box files, tables and anno files to the photographs of a source."""

from __future__ import annotations

import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from urllib.parse import unquote

from ufgvc.data.file_types import IMAGE_EXTENSIONS, file_extension

_SPLIT_WORDS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_SPLIT_NAME = re.compile(r"(train|training|test|testing)(?:[ _-]?(?:set|data|images|photos|split))?")
_LABEL_STUDIO = re.compile(r"^[0-9a-f]{8}-(?=.)")  # it puts a hash in front of the names of uploads
_ROBOFLOW = re.compile(r"_(?:jpe?g|png|webp|tiff?|bmp|heic)\.rf\.[0-9A-Za-z]+$", re.IGNORECASE)


def split_of(word: str) -> str | None:
    """train or test for a name of a split (training, test_set, ...), else None."""
    match = _SPLIT_NAME.fullmatch(word.strip().lower())
    return _SPLIT_WORDS[match[1]] if match else None


def file_stem(path: str) -> str:
    """The file name without its extension."""
    return posixpath.splitext(posixpath.basename(path))[0]


def strip_image_extension(name: str) -> str:
    """The path without the extension of an image; any other dot is part of the name."""
    return posixpath.splitext(name)[0] if file_extension(name) in IMAGE_EXTENSIONS else name


class PathMatcher:
    """Finds photographs by the names that annotation tools give them.

    The file name must match: with its extension, else without it, else without the additions of Label Studio and
    Roboflow, else in another case. Of several photographs of one name the one with the longest common tail of folders
    is taken. A name in another folder of the source (another cultivar, the other split) never matches a photograph of
    this one.

    inside: the names are paths of this source, perhaps with more or fewer folders in front; then no folder may differ.
    names: all that will be looked for, so that of many photographs only those that may match are kept.
    """

    def __init__(self, paths: Iterable[str], inside: bool = False, names: Iterable[str] | None = None) -> None:
        self.inside = inside
        wanted = None if names is None else {key for name in names for key in _loose_keys(name)}
        self._folder_names: set[str] = set()
        self._tiers: tuple[dict[str, list[str]], ...] = tuple(defaultdict(list) for _ in range(4))
        for path in paths:
            self._folder_names.update(map(str.casefold, _folders(path)))
            base = posixpath.basename(_normalise(path))
            if wanted is not None and strip_image_extension(base).casefold() not in wanted:
                continue
            for tier, key in zip(
                self._tiers,
                (base, strip_image_extension(base), base.casefold(), strip_image_extension(base).casefold()),
                strict=True,
            ):
                tier[key].append(path)

    def find(self, name: str) -> list[str]:
        """The matching photographs: [] for none, several if nothing distinguishes them."""
        found = self._find(_normalise(name))
        return found if found or "%" not in name else self._find(_normalise(unquote(name)))

    def _find(self, name: str) -> list[str]:
        folders, base = name.split("/")[:-1], posixpath.basename(name)
        exact, stems, exact_any_case, stems_any_case = self._tiers
        stem = strip_image_extension(base)
        tiers = [(exact, base), (stems, stem), (exact_any_case, base.casefold()), (stems_any_case, stem.casefold())]
        tiers += [(stems, alias) for alias in _aliases(stem) if alias != stem]
        for tier, key in tiers:
            candidates = [path for path in tier.get(key, ()) if self._may_match(folders, _folders(path))]
            if candidates:
                return _longest_tail(folders, candidates)
        return []

    def _may_match(self, named: list[str], folders: list[str]) -> bool:
        same = _common_tail(named, folders)
        named, folders = named[: len(named) - same], folders[: len(folders) - same]
        if not named or not folders:
            return True
        splits = split_of(named[-1]), split_of(folders[-1])
        other_split = None not in splits and splits[0] != splits[1]
        other_folder = named[-1].casefold() in self._folder_names and named[-1].casefold() not in map(
            str.casefold, folders
        )
        return not (self.inside or other_split or other_folder)


def _aliases(stem: str) -> tuple[str, str]:
    """The stem without the additions of Label Studio, and of Roboflow."""
    return _LABEL_STUDIO.sub("", stem), _ROBOFLOW.sub("", stem)


def _loose_keys(name: str) -> Iterator[str]:
    """What the stem of any photograph that may match a name can be, in lower case."""
    for text in {name, unquote(name)}:
        stem = strip_image_extension(posixpath.basename(_normalise(text)))
        yield from (each.casefold() for each in (stem, *_aliases(stem)))


def _normalise(name: str) -> str:
    """A path with "/" in composed Unicode (NFC), without scheme, drive, `./` and `../`."""
    text = unicodedata.normalize("NFC", name.strip()).replace("\\", "/").removeprefix("file://")
    parts = [part for part in re.sub(r"^[A-Za-z]:/", "", text).split("/") if part not in ("", ".", "..")]
    return "/".join(parts)


def _folders(path: str) -> list[str]:
    return _normalise(path).split("/")[:-1]


def _common_tail(first: list[str], second: list[str]) -> int:
    count = 0
    for one, other in zip(reversed(first), reversed(second), strict=False):
        if one.casefold() != other.casefold():
            break
        count += 1
    return count


def _longest_tail(named: list[str], candidates: list[str]) -> list[str]:
    if len(candidates) == 1:
        return candidates
    tails = {path: _common_tail(named, _folders(path)) for path in candidates}
    best = [path for path in candidates if tails[path] == max(tails.values())]
    same_folder = [path for path in best if _folders(path) == named]
    return same_folder or best

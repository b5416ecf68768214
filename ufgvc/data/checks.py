"""What must not be in a data set although every photograph is fine by itself, and how it is told."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import pyarrow as pa

from ufgvc.core.errors import UserError
from ufgvc.data.readers.listing import Listing, Photo
from ufgvc.data.readers.scan import Rejected
from ufgvc.data.shards import SPLITS

log = logging.getLogger(__name__)
_SHOWN = 5
SKIP_HINT = "mend or remove it, or leave such inputs out with `--on-bad-image skip`"


def refuse(rejected: Sequence[Rejected], source: str) -> None:
    """Raises one UserError that names the first bad inputs, if there are any."""
    if not rejected:
        return
    ordered = sorted(rejected, key=lambda bad: (bad.path, bad.reason))
    lines = [f"{bad.path}: {bad.reason}" for bad in ordered[:_SHOWN]]
    if len(ordered) > _SHOWN:
        lines.append(f"and {len(ordered) - _SHOWN} more")
    separator = "\n  " if len(lines) > 1 else ""
    raise UserError(separator.join(["", *lines]) if separator else lines[0], where=source, fix=SKIP_HINT)


def check_splits(counts: Counter[str], source: str, share: float | None = None) -> None:
    """UserError if a split is empty. share: what --split gave."""
    for split in SPLITS:
        if not counts[split]:
            fix = "put photographs into it; a source without a split is cut by --split, the share that becomes test (for example 0.5)"
            what = f"the {split} split is empty"
            if share is not None:
                what += f" although --split is {share:g}: no cultivar has two photographs (or plants) that could be parted"
                fix = "give at least two photographs of each cultivar"
            raise UserError(what, where=source, fix=fix)


def same_name(photos: Iterable[Photo]) -> list[Rejected]:
    """A photograph's file that the source lists twice: in train and test, or under two labels."""
    first: dict[str, Photo] = {}
    bad = []
    for photo in photos:
        other = first.setdefault(photo.path, photo)
        if other is not photo:
            what = f"is listed in {other.split} and {photo.split}" if other.split != photo.split else "is listed under two labels"
            bad.append(Rejected(photo.path, what))
    return bad


def same_group(photos: Iterable[Photo]) -> list[Rejected]:
    """The training photographs of plants (groups) that are in test too."""
    photos = list(photos)
    tested = {photo.group for photo in photos if photo.split == "test" and photo.group is not None}
    return [
        Rejected(photo.path, f"its group {photo.group!r} is in train and in test")
        for photo in photos
        if photo.split == "train" and photo.group in tested
    ]


def same_photograph(index: pa.Table, paths: dict[str, str]) -> dict[str, Rejected]:
    """Training photographs whose file is in test too, by image_id. Two equal files within one split are only told.

    index: image_id, sha256 and split of every photograph.  paths: image_id -> path in the source.
    """
    by_hash: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for image_id, sha256, split in zip(*(index[name].to_pylist() for name in ("image_id", "sha256", "split")), strict=True):
        by_hash[sha256].append((image_id, split))
    bad: dict[str, Rejected] = {}
    for several in by_hash.values():
        tested = [image_id for image_id, split in several if split == "test"]
        trained = [image_id for image_id, split in several if split == "train"]
        if tested and trained:
            for image_id in trained:
                bad[image_id] = Rejected(paths[image_id], f"is the same photograph as {paths[tested[0]]}, which is in test")
        for same in (tested, trained):
            if len(same) > 1:
                shown = ", ".join(paths[name] for name in same[:_SHOWN])
                log.warning("the same photograph %d times within one split: %s", len(same), shown)
    return bad


def warn_of_gaps(listing: Listing, index: pa.Table) -> None:
    """Tells of cultivars that cannot be learnt or are never asked for."""
    held: dict[str, set[int]] = {split: set() for split in SPLITS}
    for label, split in zip(index["label"].to_pylist(), index["split"].to_pylist(), strict=True):
        held[split].add(label)
    for split in SPLITS:
        missing = [name for label, name in enumerate(listing.classes) if label not in held[split]]
        if missing:
            log.warning("%d cultivars have no photograph in %s: %s", len(missing), split, ", ".join(missing[:_SHOWN]))

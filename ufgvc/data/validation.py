"""What must not be in a data set although every photograph is fine by itself, and how it is told."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

import pyarrow as pa

from ufgvc.core.errors import UserError
from ufgvc.data.dataset import SPLITS
from ufgvc.data.readers.listing import Listing, Photo
from ufgvc.data.readers.scan import Rejected

log = logging.getLogger(__name__)
_SHOWN, _LISTED = 5, 20
OnDuplicate = Literal["error", "warn", "keep-train"]
SKIP_HINT = "mend or remove it, or leave such inputs out with `--on-bad-image skip`"
DUPLICATE_HINT = (
    f"{SKIP_HINT}; pictures that occur twice: `--on-duplicate keep-train` leaves the test copy out, `warn` keeps both"
)


def refuse(rejected: Sequence[Rejected], source: str, fix: str = SKIP_HINT) -> None:
    """Raises one UserError that names the first bad inputs, if there are any."""
    if not rejected:
        return
    ordered = sorted(rejected, key=lambda bad: (bad.path, bad.reason))
    lines = [f"{bad.path}: {bad.reason}" for bad in ordered[:_SHOWN]]
    if len(ordered) > _SHOWN:
        lines.append(f"and {len(ordered) - _SHOWN} more")
    separator = "\n  " if len(lines) > 1 else ""
    raise UserError(separator.join(["", *lines]) if separator else lines[0], where=source, fix=fix)


def check_splits(counts: Counter[str], source: str, share: float | None = None) -> None:
    """UserError if a split is empty. share: what --split gave."""
    for split in SPLITS:
        if not counts[split]:
            fix = "put photographs into it; a source without a split is cut by --split, the share that becomes test (for example 0.5)"
            what = f"the {split} split is empty"
            if share is not None:
                what += (
                    f" although --split is {share:g}: no cultivar has two photographs (or plants) that could be parted"
                )
                fix = "give at least two photographs of each cultivar"
            raise UserError(what, where=source, fix=fix)


def same_name(photos: Iterable[Photo]) -> list[Rejected]:
    """A photograph's file that the source lists twice: in train and test, or under two labels."""
    first: dict[str, Photo] = {}
    bad = []
    for photo in photos:
        other = first.setdefault(photo.path, photo)
        if other is not photo:
            what = (
                f"is listed in {other.split} and {photo.split}"
                if other.split != photo.split
                else "is listed under two labels"
            )
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


def same_picture(
    index: pa.Table, groups: Sequence[Sequence[int]], paths: dict[str, str], on_duplicate: OnDuplicate
) -> dict[str, Rejected]:
    """The photographs that have to go, by image_id, because their picture is in train and test, or under two cultivars.

    index: image_id, sha256, split and cultivar of every photograph.  groups: rows of the index that show one picture, for each picture.
    paths: image_id -> path in the source.  Of a picture in both splits the test copy goes with keep-train, else the training copy; of one
    under two cultivars all copies.  Nothing goes with warn, nor if a picture occurs twice within one split and cultivar.
    """
    columns = index.select(["image_id", "sha256", "split", "cultivar"])
    loses = "test" if on_duplicate == "keep-train" else "train"
    bad: dict[str, Rejected] = {}
    kept: list[str] = []
    for group in groups:
        rows = columns.take(list(group)).to_pylist()
        splits, cultivars = len({row["split"] for row in rows}), len({row["cultivar"] for row in rows})
        if on_duplicate == "warn" or splits == cultivars == 1:
            where = "within one split" if splits == 1 else "in train and test"
            where += "" if cultivars == 1 else ", under several cultivars"
            names = sorted(paths[row["image_id"]] for row in rows)
            kept.append(f"the same photograph {len(rows)} times {where}: {', '.join(names[:_SHOWN])}")
            continue
        differs = "split" if cultivars == 1 else "cultivar"
        for row in rows:
            if cultivars > 1 or row["split"] == loses:
                other = next(one for one in rows if one[differs] != row[differs])
                bad[row["image_id"]] = Rejected(paths[row["image_id"]], _repeats(row, other, paths[other["image_id"]]))
    for line in kept[:_LISTED]:
        log.warning("%s", line)
    if len(kept) > _LISTED:
        log.warning("and %d more photographs that occur several times", len(kept) - _LISTED)
    return bad


def _repeats(row: dict[str, str], other: dict[str, str], path: str) -> str:
    same = "is the same photograph as" if row["sha256"] == other["sha256"] else "shows the same picture as"
    if row["cultivar"] != other["cultivar"]:
        return f"{same} {path}, which is of {other['cultivar']!r} and not of {row['cultivar']!r}"
    return f"{same} {path}, which is in {other['split']}"


def warn_of_gaps(listing: Listing, index: pa.Table) -> None:
    """Tells of cultivars that cannot be learnt or are never asked for."""
    held: dict[str, set[int]] = {split: set() for split in SPLITS}
    for label, split in zip(index["label"].to_pylist(), index["split"].to_pylist(), strict=True):
        held[split].add(label)
    for split in SPLITS:
        missing = [name for label, name in enumerate(listing.classes) if label not in held[split]]
        if missing:
            log.warning("%d cultivars have no photograph in %s: %s", len(missing), split, ", ".join(missing[:_SHOWN]))

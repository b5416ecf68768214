"""Dataset-level validation: empty splits, duplicates and leakage between train and test."""

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
_MAX_IN_ERROR, _MAX_LOGGED = 5, 20
OnDuplicate = Literal["error", "warn", "keep-train"]
SKIP_HINT = "fix or remove it, or leave such inputs out with `--on-bad-image skip`"
DUPLICATE_HINT = (
    f"{SKIP_HINT}; pictures that occur twice: `--on-duplicate keep-train` leaves the test copy out, `warn` keeps both"
)


def raise_if_rejected(rejected: Sequence[Rejected], source: str, fix: str = SKIP_HINT) -> None:
    """UserError that lists the first of the rejected inputs, if there are any."""
    if not rejected:
        return
    ordered = sorted(rejected, key=lambda bad: (bad.path, bad.reason))
    lines = [f"{bad.path}: {bad.reason}" for bad in ordered[:_MAX_IN_ERROR]]
    if len(ordered) > _MAX_IN_ERROR:
        lines.append(f"and {len(ordered) - _MAX_IN_ERROR} more")
    raise UserError("\n  ".join(["", *lines]) if len(lines) > 1 else lines[0], where=source, fix=fix)


def check_splits(counts: Counter[str], source: str, share: float | None = None) -> None:
    """UserError if a split is empty.  share: the value of --split, if it was given."""
    for split in SPLITS:
        if not counts[split]:
            what = f"the {split} split is empty"
            fix = (
                "put photographs into it; a source without a split is divided by --split, the share that becomes test "
                "(for example 0.5)"
            )
            if share is not None:
                what += f" although --split is {share:g}: no cultivar has two photographs (or plants) to divide"
                fix = "give at least two photographs of each cultivar"
            raise UserError(what, where=source, fix=fix)


def find_repeated_paths(photos: Iterable[Photo]) -> list[Rejected]:
    """Files that the source lists a second time: in the other split, or under another label."""
    first: dict[str, Photo] = {}
    bad = []
    for photo in photos:
        other = first.setdefault(photo.path, photo)
        if other is not photo:
            in_both = f"is listed in {other.split} and {photo.split}"
            bad.append(Rejected(photo.path, in_both if other.split != photo.split else "is listed under two labels"))
    return bad


def find_group_leaks(photos: Iterable[Photo]) -> list[Rejected]:
    """The training photos of groups (plants) that also have test photos."""
    photos = list(photos)
    test_groups = {photo.group for photo in photos if photo.split == "test" and photo.group is not None}
    return [
        Rejected(photo.path, f"its group {photo.group!r} is in train and in test")
        for photo in photos
        if photo.split == "train" and photo.group in test_groups
    ]


def find_duplicate_leaks(
    index: pa.Table, groups: Sequence[Sequence[int]], paths: dict[str, str], on_duplicate: OnDuplicate
) -> dict[str, Rejected]:
    """{image_id: Rejected} of the images to leave out because they occur in both splits or under several cultivars.

    index: image_id, sha256, split and cultivar of every image.  groups: rows of the index that show the same image, one
    group for each.  paths: {image_id: path in the source}.
    Of an image in both splits the test copy is left out with keep-train, else the training copy; of one under several
    cultivars all copies. Nothing is left out with warn, nor if an image repeats within one split and cultivar: these
    are logged.
    """
    columns = index.select(["image_id", "sha256", "split", "cultivar"])
    drop_split = "test" if on_duplicate == "keep-train" else "train"
    bad: dict[str, Rejected] = {}
    tolerated: list[str] = []
    for group in groups:
        rows = columns.take(list(group)).to_pylist()
        splits, cultivars = len({row["split"] for row in rows}), len({row["cultivar"] for row in rows})
        if on_duplicate == "warn" or splits == cultivars == 1:
            where = "within one split" if splits == 1 else "in train and test"
            where += "" if cultivars == 1 else ", under several cultivars"
            names = sorted(paths[row["image_id"]] for row in rows)
            tolerated.append(f"the same photograph {len(rows)} times {where}: {', '.join(names[:_MAX_IN_ERROR])}")
            continue
        differs = "split" if cultivars == 1 else "cultivar"
        for row in rows:
            if cultivars > 1 or row["split"] == drop_split:
                other = next(one for one in rows if one[differs] != row[differs])
                reason = _describe_duplicate(row, other, paths[other["image_id"]])
                bad[row["image_id"]] = Rejected(paths[row["image_id"]], reason)
    for line in tolerated[:_MAX_LOGGED]:
        log.warning("%s", line)
    if len(tolerated) > _MAX_LOGGED:
        log.warning("and %d more photographs that occur several times", len(tolerated) - _MAX_LOGGED)
    return bad


def _describe_duplicate(row: dict[str, str], other: dict[str, str], path: str) -> str:
    same = "is the same photograph as" if row["sha256"] == other["sha256"] else "shows the same picture as"
    if row["cultivar"] != other["cultivar"]:
        return f"{same} {path}, which is of {other['cultivar']!r} and not of {row['cultivar']!r}"
    return f"{same} {path}, which is in {other['split']}"


def warn_missing_cultivars(listing: Listing, index: pa.Table) -> None:
    """Logs the cultivars without an image in one of the splits."""
    labels: dict[str, set[int]] = {split: set() for split in SPLITS}
    for label, split in zip(index["label"].to_pylist(), index["split"].to_pylist(), strict=True):
        labels[split].add(label)
    for split in SPLITS:
        missing = [name for label, name in enumerate(listing.classes) if label not in labels[split]]
        if missing:
            names = ", ".join(missing[:_MAX_IN_ERROR])
            log.warning("%d cultivars have no photograph in %s: %s", len(missing), split, names)

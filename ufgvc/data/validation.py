"""Dataset-level validation: empty splits, duplicates and leakage between train and test."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ufgvc.core.errors import UserError
from ufgvc.data.dataset import SPLITS
from ufgvc.data.readers.listing import Listing
from ufgvc.data.readers.photos import NO_GROUP, Photos
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


def reject_repeated_paths(photos: Photos) -> tuple[Photos, list[Rejected]]:
    """The photos without files that the source lists a second time, in the other split or under another label."""
    first = photos.first_rows()[photos.at]
    again = first != np.arange(len(photos))
    bad = []
    for photo, other in ((photos[int(row)], photos[int(first[row])]) for row in np.flatnonzero(again)):
        in_both = f"is listed in {other.split} and {photo.split}"
        bad.append(Rejected(photo.path, in_both if other.split != photo.split else "is listed under two labels"))
    return photos.take(~again), bad


def reject_group_leaks(photos: Photos) -> tuple[Photos, list[Rejected]]:
    """The photos without the training photos of groups (plants) that also have test photos."""
    is_test = photos.splits == SPLITS.index("test")
    leaked = ~is_test & np.isin(photos.groups, np.unique(photos.groups[is_test & (photos.groups != NO_GROUP)]))
    leaks = [photos[int(row)] for row in np.flatnonzero(leaked)]
    bad = [Rejected(photo.path, f"its group {photo.group!r} is in train and in test") for photo in leaks]
    return photos.take(~leaked), bad


def find_duplicate_leaks(
    index: pa.Table, groups: Sequence[Sequence[int]], photos: Photos, on_duplicate: OnDuplicate
) -> dict[str, Rejected]:
    """{image_id: Rejected} of the images to leave out because they occur in both splits or under several cultivars.

    index: image_id, sha256, split and cultivar of every image.  groups: rows of the index that show the same image, one
    group for each.  photos: that were listed.
    Of an image in both splits the test copy is left out with keep-train, else the training copy; of one under several
    cultivars all copies. Nothing is left out with warn, nor if an image repeats within one split and cultivar: these
    are logged.
    """
    columns = index.select(["image_id", "sha256", "split", "cultivar"])
    copies = [row for group in groups for row in group]
    paths = photos.paths_of(columns["image_id"].take(pa.array(copies, pa.int64())).to_pylist())
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
    for split in SPLITS:
        labels = set(pc.unique(index["label"].filter(pc.equal(index["split"], split))).to_pylist())
        missing = [name for label, name in enumerate(listing.classes) if label not in labels]
        if missing:
            names = ", ".join(missing[:_MAX_IN_ERROR])
            log.warning("%d cultivars have no photograph in %s: %s", len(missing), split, names)

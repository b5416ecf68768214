"""Results of making masks: their coverage, checks before they are used, and running the tasks."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ufgvc.core.errors import UserError
from ufgvc.data.dataset import Dataset, Manifest, read_manifest
from ufgvc.regions.settings import MaskSettings

log = logging.getLogger(__name__)
MIN_FOUND = MaskSettings().min_found
Row = dict[str, Any]


@dataclass(frozen=True)
class MaskResult:
    """folder: URI of the masks.  fingerprint: of the masks.  complete: images with a mask of every region, of n.

    failed: (image_id, reason) of images that could not be read.  seconds: elapsed.  found: they existed before.
    """

    folder: str
    kind: str
    fingerprint: str
    complete: int
    n: int
    failed: tuple[tuple[str, str], ...]
    seconds: float
    found: bool = False

    def summary(self) -> str:
        """One line for the user."""
        share = self.complete / max(1, self.n)
        text = f"masks ({self.kind}) of {self.n} leaves, every region on {self.complete} ({share:.1%})"
        return f"{text}; {len(self.failed)} could not be read" if self.failed else text

    @classmethod
    def from_manifest(
        cls, dataset: Dataset, kind: str, manifest: Manifest, started: float, found: bool = False
    ) -> MaskResult:
        """started: value of `time.monotonic()` at the start."""
        return cls(
            f"{dataset.store.uri}/masks/{kind}",
            kind,
            manifest.fingerprint,
            manifest.extra["complete"],
            sum(shard.rows for shard in manifest.shards),
            tuple((image_id, reason) for image_id, reason in manifest.extra["failed"]),
            round(time.monotonic() - started, 1),
            found,
        )


@dataclass(frozen=True)
class MaskCompleteness:
    """How many images have a mask of every region.

    train: training images, of num_train.  complete: images of all splits.  min_found: the share of the training images
    that was required when the masks were made.
    """

    train: int
    num_train: int
    complete: int
    min_found: float = MIN_FOUND

    @property
    def share(self) -> float:
        """Share of the training images, in [0, 1]."""
        return self.train / max(1, self.num_train)

    def describe(self) -> str:
        """For a message."""
        return f"every region on {self.train} of {self.num_train} training leaves ({self.share:.1%})"

    def check(self, min_share: float, where: str, fix: str) -> None:
        """UserError if the share of the training images is less than `min_share`: training would lack guidance."""
        if self.share < min_share:
            raise UserError(
                f"the masks show {self.describe()}, less than the required share of {min_share:g}",
                where=where,
                fix=fix,
            )

    @classmethod
    def from_rows(cls, rows: Sequence[Mapping[str, Any]], regions: Sequence[str], min_found: float) -> MaskCompleteness:
        """From the results of `ShardMasker`.  regions: those that there can be; none: those that occur in the rows."""
        counts = [
            (json.loads(row["masks"])["split"], set(combination.split("+")) - {""}, n)
            for row in rows
            for combination, n in json.loads(row["found"]).items()
        ]
        wanted = set(regions) or set().union(*(found for _, found, _ in counts))
        all_found = [(split, n) for split, found, n in counts if wanted and wanted <= found]
        num_train = sum(n for split, _, n in counts if split == "train")
        train = sum(n for split, n in all_found if split == "train")
        return cls(train, num_train, sum(n for _, n in all_found), min_found)

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> MaskCompleteness:
        """Of existing masks. If the manifest has no counts of the training images, those of all splits are taken."""
        extra, total = manifest.extra, sum(shard.rows for shard in manifest.shards)
        train, num_train = extra.get("train_found", (extra["complete"], total))
        return cls(train, num_train, extra["complete"], extra.get("min_found", MIN_FOUND))


def check_masks(dataset: Dataset, kind: str) -> MaskCompleteness:
    """The coverage of masks before a training. UserError if they do not exist, or cover less than their `min_found`."""
    coverage = MaskCompleteness.from_manifest(read_manifest(dataset, f"masks/{kind}"))
    fix = f"run `ufgvc mask --data {dataset.store.uri} --mask-kind {kind}` again and follow its message"
    coverage.check(coverage.min_found, f"{dataset.store.uri}/masks/{kind}", fix)
    if coverage.share < MIN_FOUND:
        log.warning(
            "the %s masks show %s; on the others the network is trained with less guidance or none",
            kind,
            coverage.describe(),
        )
    return coverage


def masks_found(dataset: Dataset, kind: str, fingerprint: str | None) -> dict[str, int] | None:
    """The coverage for model.json; None if the masks are not those of the fingerprint any more."""
    manifest = read_manifest(dataset, f"masks/{kind}")
    if manifest.fingerprint != fingerprint:
        return None
    coverage = MaskCompleteness.from_manifest(manifest)
    return {"leaves": coverage.train, "of": coverage.num_train}


def find_existing(dataset: Dataset, folder: str, key: str) -> Manifest | None:
    """The folder's manifest if it was made from the same images with the same key."""
    try:
        manifest = read_manifest(dataset, folder)
    except UserError:  # it does not exist, or was made from other images
        return None
    same_shards = [shard.name for shard in manifest.shards] == [shard.name for shard in dataset.shards]
    return manifest if manifest.extra.get("key") == key and same_shards else None


def run_on_shards(dataset: Dataset, run: Callable[[list[Row]], Iterable[Row]]) -> list[Row]:
    """The results for all shards, and logs the progress.

    run: rows {"shard": JSON of a `Shard` of the images} -> a row of results for each, in the same order.
    """
    shards = [{"shard": json.dumps(asdict(shard))} for shard in dataset.shards]
    rows: list[Row] = []
    for row in run(shards):
        rows.append(row)
        log.info("mask: %d of %d shards", len(rows), len(dataset.shards))
    return rows

"""What all makers of masks share: one shard of the images at a time through Ray Data, and the result."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ufgvc.core.errors import UserError
from ufgvc.core.types import REGIONS
from ufgvc.data.dataset import Dataset, Manifest, read_manifest
from ufgvc.regions.settings import MaskSettings
from ufgvc.runtime.tasks import one_task_each, run_tasks

log = logging.getLogger(__name__)
MIN_FOUND = MaskSettings().min_found


@dataclass(frozen=True)
class MaskResult:
    """folder: masks' URI. fingerprint: of the masks. complete: leaves with a mask of every region, of n. failed: (image_id, reason)."""

    folder: str
    kind: str
    fingerprint: str
    complete: int
    n: int
    failed: tuple[tuple[str, str], ...]
    seconds: float
    found: bool = False

    def summary(self) -> str:
        text = f"masks ({self.kind}) of {self.n} leaves, every region on {self.complete} ({self.complete / max(1, self.n):.1%})"
        return f"{text}; {len(self.failed)} could not be read" if self.failed else text


@dataclass(frozen=True)
class Coverage:
    """On how many leaves every region was found: of the training split `train` of `train_of`, of all splits `complete`.

    min_found: the least share of the training leaves that whoever made the masks asked for.
    """

    train: int
    train_of: int
    complete: int
    min_found: float = MIN_FOUND

    @property
    def share(self) -> float:
        return self.train / max(1, self.train_of)

    def text(self) -> str:
        return f"every region on {self.train} of {self.train_of} training leaves ({self.share:.1%})"

    def check(self, least: float, where: str, fix: str) -> None:
        """UserError where fewer training leaves than the share `least` have every region: a network would learn without guidance."""
        if self.share < least:
            raise UserError(
                f"the masks show {self.text()}, less than the share {least:g} that is asked for", where=where, fix=fix
            )

    @classmethod
    def counted(cls, rows: Sequence[Mapping[str, Any]], regions: Sequence[str], min_found: float) -> Coverage:
        """From what the maskers said of each shard.  regions: those that the boxes can show; none: those that occur."""
        counts = [
            (json.loads(row["masks"])["split"], set(sets.split("+")), n)
            for row in rows
            for sets, n in json.loads(row["found"]).items()
        ]
        wanted = set(
            regions or [region for region in REGIONS if any(region in sets for _, sets, _ in counts)] or REGIONS
        )
        train = [(sets, n) for split, sets, n in counts if split == "train"]
        complete = sum(n for _, sets, n in counts if wanted <= sets)
        return cls(sum(n for sets, n in train if wanted <= sets), sum(n for _, n in train), complete, min_found)

    @classmethod
    def of(cls, manifest: Manifest) -> Coverage:
        """Of masks that are there. Those of earlier versions tell it of all splits together."""
        extra, leaves = manifest.extra, sum(shard.rows for shard in manifest.shards)
        train, of = extra.get("train_found", (extra["complete"], leaves))
        return cls(train, of, extra["complete"], extra.get("min_found", MIN_FOUND))


def check_masks(dataset: Dataset, kind: str) -> Coverage:
    """How much the masks of a kind show. UserError if they are not there, or show less than `mask` was asked to (--min-found)."""
    found = Coverage.of(read_manifest(dataset, f"masks/{kind}"))
    again = f"run `ufgvc mask --data {dataset.store.uri} --kind {kind}` again, which says what helps"
    found.check(found.min_found, f"{dataset.store.uri}/masks/{kind}", again)
    if found.share < MIN_FOUND:
        log.warning(
            "the %s masks show %s; on the others the network learns with less guidance, or without", kind, found.text()
        )
    return found


def masks_found(dataset: Dataset, kind: str, fingerprint: str | None) -> dict[str, int] | None:
    """What model.json says of the masks that a network learnt with; None if these are not there any more."""
    manifest = read_manifest(dataset, f"masks/{kind}")
    if manifest.fingerprint != fingerprint:
        return None
    found = Coverage.of(manifest)
    return {"leaves": found.train, "of": found.train_of}


def result_of(dataset: Dataset, kind: str, manifest: Manifest, started: float, found: bool = False) -> MaskResult:
    """started: what time.monotonic() said."""
    return MaskResult(
        f"{dataset.store.uri}/masks/{kind}",
        kind,
        manifest.fingerprint,
        manifest.extra["complete"],
        sum(shard.rows for shard in manifest.shards),
        tuple((image_id, reason) for image_id, reason in manifest.extra["failed"]),
        round(time.monotonic() - started, 1),
        found,
    )


def existing(dataset: Dataset, folder: str, key: str) -> Manifest | None:
    """The folder's manifest if it was made from these images with this key."""
    try:
        manifest = read_manifest(dataset, folder)
    except UserError:  # missing, or made from other images: both are made anew
        return None
    same_shards = [shard.name for shard in manifest.shards] == [shard.name for shard in dataset.shards]
    return manifest if manifest.extra.get("key") == key and same_shards else None


def shard_tasks(dataset: Dataset) -> Any:
    """A Ray Dataset of {"shard": JSON of a Part of the images}. Needs a Ray session."""
    return one_task_each([{"shard": json.dumps(asdict(shard))} for shard in dataset.shards])


def finish(tasks: Any, total: int) -> list[dict[str, Any]]:
    """All rows of a Ray Dataset; a UserError of a task is raised as itself."""
    rows: list[dict[str, Any]] = []
    for row in run_tasks(tasks.iter_rows()):
        rows.append(row)
        log.info("mask: %d of %d shards", len(rows), total)
    return rows

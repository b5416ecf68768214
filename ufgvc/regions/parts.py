"""What all makers of masks share: one part of the images at a time through Ray Data, and the result."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass
from typing import Any

from ufgvc.core.errors import UserError, user_error_in
from ufgvc.data.cluster import quiet_data
from ufgvc.data.shards import Dataset, Manifest, read_manifest

log = logging.getLogger(__name__)


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


def result_of(dataset: Dataset, kind: str, manifest: Manifest, started: float, found: bool = False) -> MaskResult:
    """started: what time.monotonic() said."""
    return MaskResult(
        f"{dataset.store.uri}/masks/{kind}",
        kind,
        manifest.fingerprint,
        manifest.extra["complete"],
        sum(part.rows for part in manifest.parts),
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
    same_parts = [part.name for part in manifest.parts] == [part.name for part in dataset.parts]
    return manifest if manifest.extra.get("key") == key and same_parts else None


def one_task_a_part(dataset: Dataset) -> Any:
    """A Ray Dataset of {"part": JSON of a Part of the images}. Needs a Ray session."""
    import ray

    quiet_data()
    parts = [{"part": json.dumps(asdict(part))} for part in dataset.parts]
    return ray.data.from_items(parts, override_num_blocks=len(parts))


def finish(tasks: Any, total: int) -> list[dict[str, Any]]:
    """All rows of a Ray Dataset; a UserError of a task is raised as itself."""
    from ray.exceptions import RayError

    rows: list[dict[str, Any]] = []
    try:
        for row in tasks.iter_rows():
            rows.append(row)
            log.info("mask: %d of %d parts", len(rows), total)
    except RayError as error:
        raise user_error_in(error) or error from None
    return rows

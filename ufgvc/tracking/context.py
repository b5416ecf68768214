"""Where a step writes and records its results, and on what it runs."""

from __future__ import annotations

from dataclasses import dataclass

from ufgvc.runtime.session import RaySettings
from ufgvc.tracking.settings import TrackingSettings


@dataclass(frozen=True)
class Context:
    """Where a step writes and records its results, and on what it runs.

    runs: folder or URI of all runs.
    tracking: the MLflow that records.  ray: the Ray session.  seed: of all random numbers, 0 or more.
    fresh: start over instead of using what an earlier run with the same settings left.
    """

    runs: str = "runs"
    tracking: TrackingSettings = TrackingSettings()
    ray: RaySettings = RaySettings()
    seed: int = 0
    fresh: bool = False

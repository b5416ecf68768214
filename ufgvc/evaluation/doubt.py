"""The most doubtful of any number of predictions, in constant memory."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Any


class MostDoubtful:
    """Keeps the `limit` most doubtful rows of `predict`: unknown leaves first, then those of the smallest probability.

    Among unknown leaves the one with the largest out-of-distribution score comes first; among equals the one that was
    added first.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._heap: list[tuple[tuple[bool, float], int, Mapping[str, Any]]] = []
        self._added = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Adds a row of a photograph that was read."""
        entry = (doubt(row), -self._added, row)
        self._added += 1
        if len(self._heap) < self.limit:
            heapq.heappush(self._heap, entry)
        elif self.limit:
            heapq.heappushpop(self._heap, entry)

    @property
    def rows(self) -> list[Mapping[str, Any]]:
        """The rows that are kept, the most doubtful first."""
        return [row for _, _, row in sorted(self._heap, key=lambda entry: entry[:2], reverse=True)]


def doubt(row: Mapping[str, Any]) -> tuple[bool, float]:
    """What rows are ordered by, the larger the more doubtful."""
    return (False, -row["probabilities"][0]) if row["known"] else (True, row["ood_score"])

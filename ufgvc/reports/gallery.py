"""A block of a page: photographs with their predictions, sorted, filtered and paged in the browser."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Gallery:
    """Any number of photographs; the browser draws 24 at a time.

    names: cultivars.  leaves: for each photograph {path, known, why, candidates:
    [[index of the name, probability]], nearest: [[index of the training leaf, distance]], picture: address or "",
    width, height, has_map}, the most doubtful first.  training: for each training leaf [index of the name, address].
    unknown: the name of unknown leaves.
    """

    names: Sequence[str]
    leaves: Sequence[Mapping[str, Any]]
    training: Sequence[tuple[int, str]]
    unknown: str

    def to_json(self) -> str:
        """The data for the script, as ASCII without characters that could end its element."""
        data = {"names": self.names, "leaves": self.leaves, "training": self.training, "unknown": self.unknown}
        return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")

    @property
    def counts(self) -> list[tuple[str, int]]:
        """(cultivar or `unknown`, photographs named so), the unknown first, then by name."""
        found: dict[str, int] = {}
        for leaf in self.leaves:
            name = self.names[leaf["candidates"][0][0]] if leaf["known"] else self.unknown
            found[name] = found.get(name, 0) + 1
        return sorted(found.items(), key=lambda pair: (pair[0] != self.unknown, pair[0]))

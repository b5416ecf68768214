"""Which photographs a person should look at, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ufgvc.evaluation.audit.leaves import Leaves

# Of 60 sharp leaves of grape5 and grape29 (640 pixels) the blurriest has 0.43; blurred by a Gaussian of 2 pixels, the
# sharpest of them has 0.52.
MAX_BLUR = 0.5
LIGHT = (0.12, 0.9)  # of the leaf's median L* / 100
MAX_CLIPPED = 0.1  # of the leaf's pixels
MIN_AREA = 0.02  # of the photograph
# Of the frame. A petiole that leaves the photograph covers up to about 1 % of it.
MAX_ON_FRAME = 0.03

BLURRED, DARK, BRIGHT, CLIPPED = "blurred", "too dark", "too bright", "black or white areas on the leaf"
NO_CONTRAST, SMALL, SEVERAL = "no leaf found", "leaf too small", "several parts or leaves"
ON_FRAME, UNLIKE = "leaf touches the frame", "unlike all other photographs"
NAMES = (BLURRED, DARK, BRIGHT, CLIPPED, NO_CONTRAST, SMALL, SEVERAL, ON_FRAME, UNLIKE)


def flag_photographs(leaves: Leaves, unlike: np.ndarray) -> list[list[str]]:
    """The names of what is wrong with each of the N photographs, [] for nothing.

    unlike: (N,) bool, of `neighbour_distances`. What needs the leaf's outline is not checked where the background is
    not plain.
    """
    facts = leaves.facts
    found = {
        BLURRED: facts["blur"] > MAX_BLUR,
        DARK: facts["light"] < LIGHT[0],
        BRIGHT: facts["light"] > LIGHT[1],
        CLIPPED: facts["clipped"] > MAX_CLIPPED,
        NO_CONTRAST: ~facts["contrast"].astype(bool) | (facts["parts"] == 0),
        SMALL: (facts["area"] < MIN_AREA) & (facts["parts"] > 0),
        SEVERAL: facts["parts"] > 1,
        ON_FRAME: facts["on_frame"] > MAX_ON_FRAME,
        UNLIKE: unlike,
    }
    return [[name for name in NAMES if found[name][row]] for row in range(len(leaves.index))]


@dataclass(frozen=True)
class Copies:
    """Leaves that show the same photograph.  rows: of them.  splits, cultivars: that they are in."""

    rows: tuple[int, ...]
    splits: tuple[str, ...]
    cultivars: tuple[str, ...]

    @property
    def kind(self) -> str:
        """What is wrong with them, the worst first."""
        if len(self.cultivars) > 1:
            return "under several cultivars"
        return "in train and test" if len(self.splits) > 1 else "within one cultivar and split"


def describe_copies(leaves: Leaves, groups: Sequence[Sequence[int]]) -> list[Copies]:
    """The groups of `find_duplicates`, those under several cultivars and across splits first."""
    splits, cultivars = leaves.column("split"), leaves.column("cultivar")
    found = [
        Copies(tuple(rows), *(tuple(sorted({names[row] for row in rows})) for names in (splits, cultivars)))
        for rows in groups
    ]
    return sorted(found, key=lambda each: (len(each.cultivars) == 1, len(each.splits) == 1, each.rows))

"""What accuracy a classifier reaches that sees only the background, only the colour, or only facts of the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ufgvc.evaluation.audit.folds import fit_trees, predict_out_of_fold
from ufgvc.evaluation.audit.intervals import accuracy
from ufgvc.evaluation.audit.leaves import Leaves
from ufgvc.evaluation.bootstrap import Estimate

Ints = NDArray[np.int64]
CAMERA = 6  # the first columns of `Photograph.file`: all but the bytes, which also depend on the leaf


@dataclass(frozen=True)
class Confounder:
    """A classifier that cannot see the leaf's shape.

    sees: what it does see.  found: its accuracy out of fold.  chance: accuracy of always naming the commonest cultivar.
    legitimate: whether it may be a trait of the cultivar too.
    """

    sees: str
    found: Estimate
    chance: float
    legitimate: bool

    @property
    def above_chance(self) -> bool:
        """Whether the whole 95 % interval is above chance."""
        return self.found.low > self.chance


def measure_confounders(leaves: Leaves, folds: Sequence[Ints], units: Ints) -> list[Confounder]:
    """One for the background, the camera's facts, the file's facts, and the leaf's colour without its shape."""
    labels = leaves.labels
    seen = {
        "the background only": (leaves.background, False),
        "width, height, JPEG quantisation and file type only": (leaves.file[:, :CAMERA], False),
        "the same and the size of the file in bytes": (leaves.file, False),
        "the leaf's colour only": (leaves.colour, True),
    }
    found = []
    for name, (features, legitimate) in seen.items():
        result = predict_out_of_fold(features.astype(np.float64), labels, folds, units, fit_trees)
        held = result.held
        chance = np.bincount(labels[held]).max() / held.sum()
        found.append(Confounder(name, accuracy(result.right[held], units[held]), float(chance), legitimate))
    return found

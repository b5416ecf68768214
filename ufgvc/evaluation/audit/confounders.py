"""What accuracy a classifier reaches that sees only the background, only the colour, or only facts of the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ufgvc.evaluation.audit.folds import FEW, fit_trees, partitions, predict_out_of_fold
from ufgvc.evaluation.audit.intervals import accuracy
from ufgvc.evaluation.audit.leaves import Leaves
from ufgvc.evaluation.bootstrap import Estimate

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
CAMERA = 6  # the first columns of `Photograph.file`: all but the bytes, which also depend on the leaf
PERMUTATIONS = 39  # with fewer at least as good, p is 1/40


@dataclass(frozen=True)
class Confounder:
    """A classifier that cannot see the leaf's shape.

    sees: what it does see.  found: its accuracy out of fold.  chance: accuracy of always naming the commonest cultivar.
    legitimate: whether it may be a trait of the cultivar too.  p: that labels in any other order are named as well,
    None if that was not computed: the interval does not lie above chance, or there are more than FEW leaves.
    """

    sees: str
    found: Estimate
    chance: float
    legitimate: bool
    p: float | None = None

    @property
    def above_chance(self) -> bool:
        """Whether the 95 % interval is above chance and, for up to FEW leaves, p at most 0.025."""
        return self.found.low > self.chance and (self.p is None or self.p <= 0.025)


def measure_confounders(leaves: Leaves, folds: Sequence[Ints], units: Ints, seed: int = 0) -> list[Confounder]:
    """One for the background, the camera's facts, the file's facts, and the leaf's colour without its shape."""
    labels = leaves.labels
    seen = {
        "background only": (leaves.background, False),
        "camera facts only": (leaves.file[:, :CAMERA], False),
        "camera facts and bytes": (leaves.file, False),
        "leaf colour only": (leaves.colour, True),
    }
    found = []
    for name, (columns, legitimate) in seen.items():
        features = columns.astype(np.float64)
        result = predict_out_of_fold(features, labels, folds, units, fit_trees)
        held = result.held
        chance = float(np.bincount(labels[held]).max() / held.sum())
        one = Confounder(name, accuracy(result.right[held], units[held]), chance, legitimate)
        if one.above_chance and len(labels) <= FEW:
            one = replace(one, p=permutation_p(features, labels, units, int(folds[0].max()) + 1, seed))
        found.append(one)
    return found


def permutation_p(features: Floats, labels: Ints, units: Ints, folds: int, seed: int) -> float:
    """The p of the accuracy in one partition into folds, among labels that change places between units.

    The rights and wrongs of leaves in a cross-validation depend on each other through the classifiers, so a binomial
    interval is too narrow: on noise (36 leaves, 4 labels, 60 draws) its lower end was above chance in 5 (Noirhomme et
    al. 2014). Ends as soon as p exceeds 0.025.
    """
    rng = np.random.default_rng(seed)
    _, first, of_leaf = np.unique(units, return_index=True, return_inverse=True)

    def right(own: Ints) -> float:
        (numbers,) = partitions(own, units, folds, 1, seed)
        found = predict_out_of_fold(features, own, [numbers], units, fit_trees)
        return float(np.mean(found.right[found.held])) if found.held.any() else 0.0

    observed, reached = right(labels), 0
    for number in range(1, PERMUTATIONS + 1):
        reached += right(rng.permutation(labels[first])[of_leaf]) >= observed
        if reached:
            return (reached + 1) / (number + 1)
    return 1 / (PERMUTATIONS + 1)

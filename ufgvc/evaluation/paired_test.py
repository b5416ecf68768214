"""Challenger against champion on the same leaves: what the test says. Plain numbers; nothing is read or written here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ufgvc.evaluation.metrics import mcnemar
from ufgvc.evaluation.paired_proportions import leaves_needed, paired_interval

Outcome = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class PairedComparison:
    """Both models on the same n leaves.

    gains, losses: leaves that only the challenger, only the champion named rightly.  difference: challenger minus champion, in [-1, 1],
    with its 95 % interval low to high.  p: exact, two-sided, decided at alpha.  needed: leaves that would tell such a difference apart
    (power 80 %); None where the test told it, or where there is none to tell.
    """

    n: int
    gains: int
    losses: int
    alpha: float
    p: float
    difference: float
    low: float
    high: float
    needed: int | None

    @property
    def outcome(self) -> Outcome:
        if self.p >= self.alpha:
            return "undecided"
        return "better" if self.gains > self.losses else "worse"


@dataclass(frozen=True)
class CultivarChange:
    """Leaves of a cultivar, and how many of them each model named rightly (champion None: there was none to compare with)."""

    cultivar: str
    leaves: int
    champion: int | None
    challenger: int

    @property
    def change(self) -> int:
        return 0 if self.champion is None else self.challenger - self.champion


def compare_paired(
    champion_right: NDArray[np.bool_], challenger_right: NDArray[np.bool_], alpha: float
) -> PairedComparison:
    """Both arrays (N,) speak of the same leaves in the same order."""
    test = mcnemar(champion_right, challenger_right)
    n, gains, losses = len(champion_right), test.only_second, test.only_first
    low, high = paired_interval(gains, losses, n)
    needed = leaves_needed(gains, losses, n, alpha) if test.p_value >= alpha else None
    return PairedComparison(n, gains, losses, alpha, test.p_value, (gains - losses) / n, low, high, needed)


def by_cultivar(
    classes: Sequence[str],
    label: NDArray[np.int64],
    champion_right: NDArray[np.bool_] | None,
    challenger_right: NDArray[np.bool_],
) -> list[CultivarChange]:
    """One entry a cultivar that has leaves: first who gained most, last who lost most, else in label order."""

    def count(which: NDArray[np.bool_]) -> list[int]:
        return [int(k) for k in np.bincount(label[which], minlength=len(classes))]

    leaves, new = count(np.ones_like(challenger_right)), count(challenger_right)
    old = count(champion_right) if champion_right is not None else [None] * len(classes)
    rows = [CultivarChange(*row) for row in zip(classes, leaves, old, new, strict=True) if row[1]]
    return sorted(rows, key=lambda row: -row.change)

"""Which training leaves are learnt from and which are held out to choose an epoch. The test split is never touched here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ufgvc.core.errors import UserError

Ints = NDArray[np.int64]


def fold_of(labels: Ints, groups: Sequence[str | None], folds: int, fold: int, seed: int) -> tuple[Ints, Ints]:
    """(learn, hold) positions of one fold, stratified by label; a group (plant) is never cut.

    Held out are the leaves of every `folds`-th group of a cultivar. UserError if a cultivar has a single group.
    """
    random = np.random.default_rng(np.random.SeedSequence([seed, folds]))
    units = np.array([f"group {group}" if group is not None else f"leaf {place}" for place, group in enumerate(groups)])
    fold_at = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        at = np.flatnonzero(labels == label)
        names = random.permutation(np.unique(units[at]))
        if len(names) < 2:
            raise UserError(
                f"the cultivar with label {label} has one training leaf (or one group of leaves): nothing of it can be held out",
                where="train.validation",
                fix="use `--train.validation last`",
            )
        place = {name: index % min(folds, len(names)) for index, name in enumerate(names)}
        fold_at[at] = [place[unit] for unit in units[at]]
    return np.flatnonzero(fold_at != fold), np.flatnonzero(fold_at == fold)


def held_out(labels: Ints, groups: Sequence[str | None], share: float, seed: int) -> tuple[Ints, Ints]:
    """(learn, hold) positions: about `share` (at most half) of each cultivar's leaves are held out."""
    return fold_of(labels, groups, max(2, round(1 / share)), 0, seed)

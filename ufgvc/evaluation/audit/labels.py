"""Likely label mistakes (cleanlab), photographs unlike all others, and cultivars that look alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from cleanlab.filter import find_label_issues
from cleanlab.outlier import OutOfDistribution
from cleanlab.rank import get_label_quality_scores
from numpy.typing import NDArray

from ufgvc.evaluation.audit.folds import OutOfFold
from ufgvc.evaluation.audit.intervals import effective_leaves, wilson
from ufgvc.evaluation.bootstrap import Estimate

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
FILTER = "prune_by_noise_rate"
NEIGHBOURS = 10
UNLIKE = 0.37  # of the median score, as in cleanlab's Datalab


@dataclass(frozen=True)
class LabelCheck:
    """Labels of N leaves against what others say.

    quality: (N,) probability of the given label out of fold, NaN for a leaf that was not held out.  suggested: (N,) the
    likeliest class, -1 likewise.  suspects: indices of likely mistakes, the likeliest first.
    """

    quality: Floats
    suggested: Ints
    suspects: Ints


def check_labels(found: OutOfFold, labels: Ints) -> LabelCheck:
    """Confident learning (Northcutt et al. 2021) on probabilities out of fold; classes without a held leaf are left
    out.
    """
    quality, suggested = np.full(len(labels), np.nan), np.full(len(labels), -1)
    rows = np.flatnonzero(found.held)
    present, own = np.unique(labels[rows], return_inverse=True)
    if len(present) < 2:
        return LabelCheck(quality, suggested, np.zeros(0, np.int64))
    probability = found.probability[rows][:, present] + 1e-12
    probability /= probability.sum(axis=1, keepdims=True)
    quality[rows] = get_label_quality_scores(own, probability)
    suggested[rows] = present[probability.argmax(axis=1)]
    ranked = find_label_issues(own, probability, return_indices_ranked_by="self_confidence", filter_by=FILTER, n_jobs=1)
    return LabelCheck(quality, suggested, rows[np.asarray(ranked, np.int64)])


def score_typicality(features: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """How near each leaf (N, D) is to its neighbours, in [0, 1], and which are unlike all others (cleanlab).

    None are with fewer than three leaves.
    """
    if len(features) < 3:
        return np.ones(len(features)), np.zeros(len(features), bool)
    detector = OutOfDistribution({"k": min(NEIGHBOURS, len(features) - 1)})
    scores = np.asarray(detector.fit_score(features=features, verbose=False), np.float64)
    return scores, scores < UNLIKE * np.median(scores)


@dataclass(frozen=True)
class Pair:
    """Two cultivars a < b, and their leaves that a fold held out.

    leaves: (of a, of b).  wrong: (of a that are named b, of b that are named a), by the likeliest of all classes.
    separated: share of the leaves for which the right one of the two is likelier, averaged over both cultivars.
    """

    a: int
    b: int
    leaves: tuple[int, int]
    wrong: tuple[int, int]
    separated: Estimate

    @property
    def confused(self) -> int:
        """Leaves of the one that are named the other."""
        return sum(self.wrong)

    @property
    def alike(self) -> bool:
        """Whether the data do not show that the two can be separated: half, as by chance, is in the interval."""
        return self.separated.low <= 0.5


def compare_pairs(found: OutOfFold, labels: Ints, units: Ints) -> list[Pair]:
    """Every pair of cultivars with leaves that were held out, the most confused first."""
    rows = np.flatnonzero(found.held)
    probability, own, unit = found.probability[rows], labels[rows], units[rows]
    named = probability.argmax(axis=1)
    by_class = {int(label): np.flatnonzero(own == label) for label in np.unique(own)}
    pairs = []
    for a, b in combinations(by_class, 2):
        first, second = by_class[a], by_class[b]
        # A tie is half right.
        parts = [
            np.mean(0.5 + 0.5 * np.sign(probability[places, right] - probability[places, other]))
            for places, right, other in ((first, a, b), (second, b, a))
        ]
        share = float(np.mean(parts))
        count = effective_leaves(unit[np.concatenate([first, second])])
        wrong = int((named[first] == b).sum()), int((named[second] == a).sum())
        pairs.append(Pair(a, b, (len(first), len(second)), wrong, wilson(share, count)))
    return sorted(pairs, key=lambda pair: (-pair.confused, pair.separated.value, pair.a, pair.b))


def confused_groups(pairs: Sequence[Pair]) -> list[Pair]:
    """Those of the pairs that are alike and have at least one confused leaf."""
    return [pair for pair in pairs if pair.alike and pair.confused]

"""Likely label mistakes (cleanlab), photographs unlike all others, and cultivars that look alike."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_label_quality_scores
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from ufgvc.evaluation.audit.folds import OutOfFold
from ufgvc.evaluation.audit.intervals import effective_leaves, wilson
from ufgvc.evaluation.bootstrap import Estimate

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# As many leaves of the lowest probability as the confident joint says. The other filters of cleanlab decide cultivar by
# cultivar, which a handful of leaves does not allow: docs/results/audit.md.
FILTER = "low_self_confidence"
NEIGHBOURS, UNLIKE = 5, 5.0


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


def neighbour_distances(features: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """(N,) mean cosine distance of each leaf (N, D) to its NEIGHBOURS nearest, and which leaves are unlike all others.

    These are farther than twice the median, and, in logarithms, than UNLIKE robust standard deviations (1.4826 times
    the median absolute deviation) from it.
    """
    nearest = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(features) - 1), metric="cosine").fit(features)
    distances = np.asarray(nearest.kneighbors()[0].mean(axis=1), np.float64)
    logs = np.log(np.maximum(distances, 1e-12))
    middle = np.median(logs)
    spread = 1.4826 * np.median(np.abs(logs - middle))
    return distances, (logs > middle + UNLIKE * spread) & (logs > middle + np.log(2))


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

"""Names every leaf out of fold: with classifiers that were fitted to other plants, and to no copy of the leaf."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.decomposition import PCA
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from ufgvc.data.splits import assign_folds

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# features (n, D), labels (n,), units (n,) -> a fitted classifier of scikit-learn
Fit = Callable[[Floats, Ints, Ints], Any]
COMPONENTS = 512  # principal components of the embeddings, at most: of up to 512 leaves nothing is lost
STRENGTHS = (0.001, 0.01, 0.1, 1.0)  # scikit-learn's C; on grape5 and grape29 0.1 to 10 do about as well
INNER_FOLDS = 3
FEW = 2000  # leaves: of more, one partition into folds is enough, and one inner fold chooses the strength
TREES = 40


@dataclass(frozen=True)
class OutOfFold:
    """What classifiers say about the N leaves that they were not fitted to.

    probability: (N, K), mean over the partitions; NaN for leaves that no fold held out.  right: (N,) share of the
    partitions in which the likeliest class is the label, NaN likewise.  held: (N,) whether a fold held the leaf out.
    """

    probability: Floats
    right: Floats
    held: NDArray[np.bool_]


def find_units(groups: Sequence[str | None], copies: Sequence[Sequence[int]]) -> Ints:
    """(N,) ids of the units that folds keep together: the leaves of a group, and copies of one photograph.

    copies: lists of leaves that show the same picture.
    """
    first: dict[str, int] = {}
    pairs = [(index, first.setdefault(group, index)) for index, group in enumerate(groups) if group is not None]
    pairs += [(each[0], other) for each in copies for other in each[1:]]
    a, b = np.array(pairs, int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(a), bool), (a, b)), shape=(len(groups), len(groups)))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def rotate(embedding: NDArray[np.float32], seed: int) -> tuple[Floats, float]:
    """Standardised embeddings (N, D) in the space of their COMPONENTS largest principal components (N, r), and the
    share of the variance that is kept. No label is used, so leaves of all folds may be.

    With fewer leaves than components it is a rotation, under which a penalised linear classifier does not change.
    """
    scaled = StandardScaler().fit_transform(embedding.astype(np.float64))
    most = min(*embedding.shape, COMPONENTS)
    exact = most == min(embedding.shape)
    analysis = PCA(most, svd_solver="full" if exact else "randomized", random_state=seed)
    return np.asarray(analysis.fit_transform(scaled)), float(analysis.explained_variance_ratio_.sum())


def partitions(labels: Ints, units: Ints, folds: int, repeats: int, seed: int) -> Iterator[Ints]:
    """The fold (N,) of each leaf in each partition, -1 for a cultivar with a single unit."""
    names = [str(unit) for unit in units]
    for number in range(1 if len(labels) > FEW else repeats):
        yield assign_folds(labels, names, folds, seed + number)


def predict_out_of_fold(features: Floats, labels: Ints, folds: Sequence[Ints], units: Ints, fit: Fit) -> OutOfFold:
    """Names every leaf that a fold holds out.  features: (N, D).  folds: of `partitions`.  fit: makes a classifier."""
    count, classes = len(labels), int(labels.max()) + 1
    total, right, times = np.zeros((count, classes)), np.zeros(count), np.zeros(count, int)
    # Threads of BLAS wait for each other longer than they compute on the matrices of a few leaves.
    with threadpool_limits(1 if count <= FEW else None), warnings.catch_warnings():
        # scikit-learn takes the few leaves of many cultivars for a regression problem.
        warnings.filterwarnings("ignore", message="The number of unique classes is greater than 50%")
        for numbers, fold in ((each, fold) for each in folds for fold in range(each.max() + 1)):
            held, others = np.flatnonzero(numbers == fold), np.flatnonzero(numbers != fold)
            if not len(held) or len(np.unique(labels[others])) < 2:
                continue
            classifier = fit(features[others], labels[others], units[others])
            found = np.zeros((len(held), classes))
            found[:, classifier.classes_] = classifier.predict_proba(features[held])
            total[held] += found
            right[held] += found.argmax(axis=1) == labels[held]
            times[held] += 1
    with np.errstate(invalid="ignore"):
        return OutOfFold(total / times[:, None], right / times, times > 0)


def fit_trees(features: Floats, labels: Ints, units: Ints) -> Any:
    """Extremely randomised trees (Geurts et al. 2006): they need no scaling, and find a camera by its numbers."""
    return ExtraTreesClassifier(TREES, random_state=0, n_jobs=1).fit(features, labels)


def linear_fit(strength: float) -> Fit:
    """A multinomial logistic regression with this C."""

    def fit(features: Floats, labels: Ints, units: Ints) -> Any:
        return LogisticRegression(C=strength, max_iter=2000).fit(features, labels)

    return fit


@dataclass
class ChosenLinear:
    """A logistic regression whose C is chosen inside the leaves that it is fitted to, for every fold again.

    chosen: the strengths so far.
    """

    seed: int
    chosen: list[float]

    def __call__(self, features: Floats, labels: Ints, units: Ints) -> Any:
        """Fits with the strength of the smallest log-loss on inner folds; 1 where nothing can be held out."""
        numbers = assign_folds(labels, [str(unit) for unit in units], INNER_FOLDS, self.seed)
        inner = range(1 if len(labels) > FEW else INNER_FOLDS)
        losses = dict.fromkeys(STRENGTHS, 0.0)
        for fold in inner:
            held, others = numbers == fold, numbers != fold
            held &= np.isin(labels, labels[others])
            if not held.any() or len(np.unique(labels[others])) < 2:
                continue
            classifier = LogisticRegression(max_iter=2000, warm_start=True)  # each solution is near the next
            for strength in STRENGTHS:
                classifier.set_params(C=strength).fit(features[others], labels[others])
                found = classifier.predict_proba(features[held])
                losses[strength] += held.sum() * log_loss(labels[held], found, labels=classifier.classes_)
        best = min(STRENGTHS, key=losses.__getitem__) if any(losses.values()) else 1.0
        self.chosen.append(best)
        return linear_fit(best)(features, labels, units)

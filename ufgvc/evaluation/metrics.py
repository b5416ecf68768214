"""Scores of one model on one set of leaves, and of two models on the same leaves.

N leaves, K cultivars. Labels and predictions are class indices in [0, K). Everything here is plain numpy and scipy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import binomtest

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Proportion:
    """k of n, with the bounds of a confidence interval, all in [0, 1]."""

    k: int
    n: int
    low: float
    high: float

    @property
    def value(self) -> float:
        return self.k / self.n


@dataclass(frozen=True)
class McNemar:
    """Two models on the same leaves. only_first: leaves that only the first got right; p_value: exact, two-sided."""

    only_first: int
    only_second: int
    p_value: float


@dataclass(frozen=True)
class Scores:
    """What one model did on N leaves. Rates in [0, 1]; recall (K,) is NaN for a cultivar without leaves."""

    accuracy: Proportion
    balanced_accuracy: float
    top: Proportion
    top_k: int
    mean_probability: float
    recall: Floats
    confusion: Ints


def proportion(k: int, n: int, confidence: float = 0.95) -> Proportion:
    """k of n with its Wilson score interval (no continuity correction). ValueError for n = 0 or k outside [0, n]."""
    interval = binomtest(k, n).proportion_ci(confidence_level=confidence, method="wilson") if n > 0 else None
    if interval is None:
        raise ValueError("a proportion of no leaves does not exist")
    return Proportion(k, n, float(interval.low), float(interval.high))


def confusion(truth: Ints, predicted: Ints, num_classes: int) -> Ints:
    """(K, K) counts: row the true cultivar, column the predicted one."""
    flat = np.bincount(truth * num_classes + predicted, minlength=num_classes * num_classes)
    return flat.reshape(num_classes, num_classes)


def recall(counts: Ints) -> Floats:
    """Share of each cultivar's leaves that were named rightly, (K,); NaN where a cultivar has no leaves."""
    leaves = counts.sum(axis=1)
    return np.divide(np.diag(counts), leaves, out=np.full(len(counts), np.nan), where=leaves > 0)


def precision(counts: Ints) -> Floats:
    """Share right among the leaves given each name, (K,); NaN for a name that was never given."""
    return recall(counts.T)


def balanced_accuracy(counts: Ints) -> float:
    """Mean recall over the cultivars that have leaves."""
    return float(np.nanmean(recall(counts)))


def ranking(logits: Floats) -> Ints:
    """Class indices from likely to unlikely, (N, K); equal logits in class order, so the result never varies."""
    return np.argsort(-logits, axis=1, kind="stable")


def in_top(logits: Floats, truth: Ints, k: int) -> NDArray[np.bool_]:
    """(N,) whether the true cultivar is among the k likeliest (all of them if there are fewer)."""
    return (ranking(logits)[:, :k] == truth[:, None]).any(axis=1)


def probabilities(logits: Floats) -> Floats:
    """(N, K) softmax in float64."""
    return softmax(np.asarray(logits, dtype=np.float64), axis=1)


def mcnemar(first_right: NDArray[np.bool_], second_right: NDArray[np.bool_]) -> McNemar:
    """Exact McNemar test: of the leaves on which exactly one model was right, was it as often the one as the other?

    Both arrays (N,) speak of the same leaves in the same order. Without such leaves p is 1.
    """
    if first_right.shape != second_right.shape:
        raise ValueError(f"not the same leaves: {first_right.shape} and {second_right.shape}")
    only_first = int((first_right & ~second_right).sum())
    only_second = int((~first_right & second_right).sum())
    differing = only_first + only_second
    p_value = float(binomtest(only_first, differing).pvalue) if differing else 1.0
    return McNemar(only_first, only_second, p_value)


def score(logits: Floats, truth: Ints, top_k: int = 5) -> Scores:
    """All scores of one model from its logits (N, K) and the true labels (N,)."""
    if not np.isfinite(logits).all():
        raise ValueError("the model gave logits that are not finite numbers")
    leaves, classes = logits.shape
    top_k = min(top_k, classes)
    order = ranking(logits)
    counts = confusion(truth, order[:, 0], classes)
    right = int(np.trace(counts))
    return Scores(
        accuracy=proportion(right, leaves),
        balanced_accuracy=balanced_accuracy(counts),
        top=proportion(int((order[:, :top_k] == truth[:, None]).any(axis=1).sum()), leaves),
        top_k=top_k,
        mean_probability=float(probabilities(logits).max(axis=1).mean()),
        recall=recall(counts),
        confusion=counts,
    )


def confused_pairs(counts: Ints, most: int = 12) -> list[tuple[int, int, int]]:
    """(true, predicted, leaves) off the diagonal, the most frequent first, at most `most` of them."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    rows, columns = np.unravel_index(order, wrong.shape)
    return [(int(i), int(j), int(wrong[i, j])) for i, j in zip(rows, columns, strict=True) if wrong[i, j]]
